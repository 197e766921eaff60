"""Episodes as data: Lightning asks for an epoch's loader, and a round that is not on disk yet is played first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from jsonargparse import lazy_instance

from sppo_lightning.control.episodes import play_episodes
from sppo_lightning.control.labeller import compare_with_queue
from sppo_lightning.control.preferences import MaximumReward, Preference
from sppo_lightning.control.rounds import MANIFEST, Round
from sppo_lightning.control.task import Task
from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.types import Progress

if TYPE_CHECKING:
    from sppo_lightning.control.module import ControlModule


class OneRound:
    """A loader of one batch: the round."""

    def __init__(self, batch: Round) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Round]:
        yield self._batch


class TrajectoryDataModule(pl.LightningDataModule):
    """Plays the episodes of round t with pi_t when training reaches it, and has them judged.

    Args:
        task: a gymnasium task with continuous actions, such as Pendulum-v1.
        horizon: steps of an episode. One that ends earlier is padded; its early end is part of what is judged.
        preference: says which of two trajectories is better.
        num_rounds: rounds of the run; a round is one update of the learner.
        episodes_per_round: episodes that pi_t plays in a round.
        queue_size: B, the recent trajectories that each new one is compared with, the round's own included.
        export_every: rounds from one export of the policy to the next; the last one is always exported. Exported
            policies are measured.
        seed: decides every episode; the command line sets it from seed_everything.
    """

    def __init__(
        self,
        task: str,
        horizon: int,
        preference: Preference = lazy_instance(MaximumReward),  # noqa: B008 - how jsonargparse shows a default
        num_rounds: int = 50,
        episodes_per_round: int = 8,
        queue_size: int = 32,
        export_every: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = {
            "horizon": (horizon, 2),
            "num_rounds": (num_rounds, 1),
            "episodes_per_round": (episodes_per_round, 2),
            "queue_size": (queue_size, episodes_per_round),
            "export_every": (export_every, 1),
        }
        for name, (value, minimum) in least.items():
            if value < minimum:
                reason = " (data.episodes_per_round: the round's own are in the queue)" if name == "queue_size" else ""
                raise ConfigError(f"data.{name} must be at least {minimum}{reason}, got {value}")
        self.task = Task(task, horizon)
        preference.check(self.task.observation_size)
        self.preference = preference
        self.num_rounds = num_rounds
        self.episodes_per_round = episodes_per_round
        self.queue_size = queue_size
        self.export_every = export_every
        self.seed = seed
        self.progress: Progress = NullProgress()
        self._rounds: dict[int, Round] = {}

    @property
    def module(self) -> ControlModule:
        """The policy module of the run."""
        return self.trainer.lightning_module  # type: ignore[union-attr, return-value]

    def exports_after(self, round_index: int) -> bool:
        """Whether the policy after a round is exported."""
        return (round_index + 1) % self.export_every == 0 or round_index + 1 == self.num_rounds

    def train_dataloader(self) -> OneRound:
        """The round of the trainer's current epoch; Lightning asks before every epoch, and once more on a resume."""
        index = self.trainer.current_epoch  # type: ignore[union-attr]
        if index not in self._rounds and not self._folder(index).joinpath(MANIFEST).is_file():
            self._rounds[index] = self._play(index)
        return OneRound(self.round(index))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leaves the batch where it is: the learner takes what it needs."""
        return batch

    def round(self, index: int) -> Round:
        """A round, from memory or from disk.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        if index not in self._rounds:
            if not self._folder(index).is_dir():
                raise RunFolderError(
                    f"{self._folder(index)} is missing, and it cannot be played again: the policy that played it has "
                    "moved on. Restore it from a backup, or start a new run: --trainer.default_root_dir runs/NAME"
                )
            self._rounds[index] = Round.read(self._folder(index), index)
        return self._rounds[index]

    def history(self, index: int) -> Sequence[Round]:
        """The rounds that the reward source reads in round `index`, oldest first; forgets those nobody reads."""
        remembers = self.module.reward.remembers
        first = 0 if remembers < 0 else index - remembers
        oldest_in_queue = index - (self.queue_size - 1) // self.episodes_per_round
        for old in [old for old in self._rounds if old < min(first, oldest_in_queue)]:
            del self._rounds[old]
        return [self.round(earlier) for earlier in range(first, index + 1)]

    def _folder(self, index: int) -> Any:
        return self.module.run_folder.round(index).path

    def _play(self, index: int) -> Round:
        """Plays and judges round `index` and writes it."""
        began, count = time.perf_counter(), self.episodes_per_round
        trajectories = play_episodes(
            self.task,
            self.module.policy,
            names=[f"round_{index:03d}/{episode}" for episode in range(count)],
            seeds=[derive_seed(self.seed, "play", index, episode) for episode in range(count)],
        )
        played = time.perf_counter()
        kept = self.queue_size - count
        rounds = range(max(index - -(-kept // count), 0), index)
        earlier = [trajectory for old in rounds for trajectory in self.round(old).trajectories]
        comparisons = compare_with_queue(trajectories, earlier[-kept:] if kept else [], index * count, self.preference)
        made = Round(
            index=index,
            trajectories=trajectories,
            comparisons=comparisons,
            metrics={
                "cost/env_steps": float(sum(each.length for each in trajectories)),
                "cost/comparisons": float(len(comparisons)),
                "time/play": played - began,
                "time/judge": time.perf_counter() - played,
            },
        )
        made.write(self._folder(index))
        return made
