"""A round of episodes on disk: what was played, and who beat whom.

    rounds/round_003/
      episodes.safetensors       observations [N, H, D], actions [N, H, A], true rewards [N, H], lengths, early ends
      comparisons.safetensors    first [C], second [C]: numbers of episodes, counted over the run; prob [C]
      manifest.json              hashes of both, and what the round cost

A round is written whole or not at all. Everything after it only reads it: a kill in training plays nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sppo_lightning.errors import RunFolderError
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.trajectory_preferences import Trajectory
from sppo_lightning.io.files import atomic_folder, read_bytes, sha256_of
from sppo_lightning.io.sealed import read_sealed_json, write_sealed_json

EPISODES = "episodes.safetensors"
COMPARISONS = "comparisons.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """C verdicts on pairs of episodes, each pair once.

    Attributes:
        first_C: the number of an episode, counted over the whole run.
        second_C: the number of another, earlier one.
        prob_C: P(first is better than second).
    """

    first_C: NDArray[np.int64]
    second_C: NDArray[np.int64]
    prob_C: Array

    def __len__(self) -> int:
        return len(self.prob_C)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What pi_t played, and the verdicts on it.

    Attributes:
        index: t.
        trajectories: N episodes.
        comparisons: each with the queue, see `labeller`.
        metrics: `time/*` seconds and `cost/*` of this round alone.
    """

    index: int
    trajectories: Sequence[Trajectory]
    comparisons: Comparisons
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def first_number(self) -> int:
        """The number of its first episode, counted over the whole run: every round has as many."""
        return self.index * len(self.trajectories)

    def write(self, folder: Path) -> None:
        """Writes the round, whole or not at all."""
        comparisons = self.comparisons
        parts = {
            EPISODES: episodes_bytes(self.trajectories),
            COMPARISONS: save(
                {"first": comparisons.first_C, "second": comparisons.second_C, "prob": comparisons.prob_C}
            ),
        }
        with atomic_folder(folder, kind="round") as temporary:
            for name, content in parts.items():
                temporary.joinpath(name).write_bytes(content)
            hashes = {name: sha256_of(temporary / name) for name in parts}
            write_sealed_json(temporary / MANIFEST, {"files": hashes, "metrics": self.metrics}, kind="manifest")

    @classmethod
    def read(cls, folder: Path, index: int) -> Round:
        """Reads a round and proves it.

        Raises:
            RunFolderError: a file is missing or damaged.
        """
        manifest = read_sealed_json(folder / MANIFEST)
        for name, digest in manifest["files"].items():
            if not (folder / name).is_file() or sha256_of(folder / name) != digest:
                raise RunFolderError(
                    f"{folder / name}: is missing or damaged; restore it from a copy of the run folder, or start a new "
                    "run: --trainer.default_root_dir runs/NAME"
                )
        found = load(read_bytes(folder / COMPARISONS))
        return cls(
            index=index,
            trajectories=read_episodes(folder / EPISODES, folder.name),
            comparisons=Comparisons(first_C=found["first"], second_C=found["second"], prob_C=found["prob"]),
            metrics=manifest["metrics"],
        )


def episodes_bytes(trajectories: Sequence[Trajectory]) -> bytes:
    """Episodes of one horizon as a safetensors file: equal episodes give equal bytes."""
    return save(
        {
            "observations": np.stack([each.observations_HD for each in trajectories]),
            "actions": np.stack([each.actions_HA for each in trajectories]),
            "rewards": np.stack([each.rewards_H for each in trajectories]),
            "lengths": np.array([each.length for each in trajectories]),
            "terminated": np.array([each.terminated for each in trajectories]),
        }
    )


def read_episodes(file: Path, name: str) -> list[Trajectory]:
    """Episodes as `episodes_bytes` wrote them, called `name`/0, `name`/1, ...

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    try:
        found: dict[str, Any] = load(read_bytes(file))
    except SafetensorError as error:
        raise RunFolderError(f"{file}: is damaged ({error}); restore it, or delete it to have it made again") from error
    return [
        Trajectory(
            name=f"{name}/{n}",
            observations_HD=found["observations"][n],
            actions_HA=found["actions"][n],
            rewards_H=found["rewards"][n],
            length=int(found["lengths"][n]),
            terminated=bool(found["terminated"][n]),
        )
        for n in range(len(found["lengths"]))
    ]
