"""A new run that begins with another run's round: it shares what was generated and judged there."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.io import carriers
from sppo_lightning.io.files import atomic_folder
from sppo_lightning.selfplay.store import PROMPTS, SETTINGS
from sppo_lightning.training.run_folder import RunFolder
from sppo_lightning.types import Prompt

GENERATED = ("candidates", "opponents")
JUDGED = ("preferences",)


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Where a forked run begins.

    Attributes:
        source: the other run's folder.
        round_index: the shared round, played by the policy after the other run's round before it.
    """

    source: Path
    round_index: int

    @classmethod
    def parse(cls, text: str, num_rounds: int) -> Fork:
        """Reads `RUN@round_001`.

        Raises:
            ConfigError: it is not of that form, or `num_rounds` ends before that round.
        """
        match = re.fullmatch(r"(.+)@round_(\d+)", text)
        if not match:
            raise ConfigError(f"data.fork_from must look like runs/quickstart@round_001, got {text!r}")
        fork = cls(source=Path(match[1]), round_index=int(match[2]))
        if num_rounds <= fork.round_index:
            raise ConfigError(
                f"data.num_rounds counts from round 0, so a run forked at round {fork.round_index} needs at least "
                f"{fork.round_index + 1}, got {num_rounds}"
            )
        return fork

    def link(self, run: RunFolder) -> None:
        """Links the policies before the shared round and then the round into `run`, unless that was done before.

        From then on the source is not looked at again: it may be moved or deleted.

        The oracle's verdicts are shared if both runs were started with the same `data.oracle`, otherwise the responses
        are judged again. Targets, pairs and frozen log-probabilities are the new run's own.

        Raises:
            RunFolderError: the source is damaged.
            ConfigError: the source has no such complete round, or the runs have different start policies.
        """
        target = run.round(self.round_index)
        if target.path.exists():
            return
        source = RunFolder(self.source)
        shared = source.round(self.round_index)
        if not shared.is_committed:
            raise ConfigError(f"data.fork_from: {shared} is not a complete round (it has no manifest.json)")
        ours, theirs = run.state.get("config", {}), source.state.get("config", {})
        start = "model.init_args.policy"
        if ours.get(start) != theirs.get(start):
            raise ConfigError(
                f"model.policy is {ours.get(start)}, but {self.source} started from {theirs.get(start)}; a fork has "
                "its source's start policy"
            )
        for earlier in range(self.round_index):
            if not run.export(earlier).is_dir():
                if not source.export(earlier).is_dir():
                    raise RunFolderError(f"{source.export(earlier)} is missing; the fork needs it as an earlier policy")
                with atomic_folder(run.export(earlier), kind="fork") as temporary:
                    _link_tree(source.export(earlier), temporary)
        shared.verify()
        same_oracle = _under(ours, "data.init_args.oracle") == _under(theirs, "data.init_args.oracle")
        with atomic_folder(target.path, kind="fork") as temporary:
            for name in (SETTINGS, PROMPTS):
                _link(shared.path / name, temporary / name)
            for stage in GENERATED + (JUDGED if same_oracle else ()):
                if (shared.path / stage).is_dir():
                    (temporary / stage).mkdir()
                    _link_tree(shared.path / stage, temporary / stage)

    def check(self, run: RunFolder, held_out: Sequence[Prompt], num_candidates: int) -> None:
        """Refuses, or says, what a fork must not take over in silence from its source.

        Raises:
            ConfigError: prompts of the shared round are held out for evaluation in this run.
        """
        folder = run.round(self.round_index)
        shared, _ = carriers.prompts_from(folder.read_prompts())
        tested = {prompt.conversation for prompt in held_out}
        leaked = sum(prompt.conversation in tested for prompt in shared)
        if leaked:
            raise ConfigError(
                f"data.fork_from: {leaked} of the shared round's {len(shared)} prompts are held out for evaluation in "
                "this run, which would be trained on what it is tested with. Give the source's data.prompts, "
                "data.held_out and seed_everything"
            )
        if folder.settings["num_candidates"] != num_candidates:
            warnings.warn(
                f"data.num_candidates: the shared round has {folder.settings['num_candidates']} responses a prompt; "
                f"{num_candidates} holds from the next round on",
                stacklevel=2,
            )


def _under(config: dict[str, str], prefix: str) -> dict[str, str]:
    return {key: value for key, value in config.items() if key == prefix or key.startswith(f"{prefix}.")}


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        destination = target / path.relative_to(source)
        if path.is_dir():
            destination.mkdir()
        else:
            _link(path, destination)


def _link(source: Path, target: Path) -> None:
    """A hard link: finished files never change; a copy where the two runs lie on different file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
