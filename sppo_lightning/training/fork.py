"""A new run that begins with another run's round: it shares what was generated and judged there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.io import carriers
from sppo_lightning.io.files import atomic_folder, link_tree
from sppo_lightning.selfplay.store import CANDIDATES, IMPORTED, RoundFolder
from sppo_lightning.training.run_folder import RunFolder, policy_name
from sppo_lightning.types import Prompt


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

        Only what the new run would make in the same way is shared: the candidates; the oracle's verdicts on them if
        both runs have the same `data.oracle` and leave out as many pairs; the opponents' responses and the verdicts
        against them if the opponents are the same, too. Targets, pairs and frozen log-probabilities are the new run's
        own.

        Raises:
            RunFolderError: the source is damaged.
            ConfigError: the source has no such complete round, or the runs have different start policies.
        """
        target = run.round(self.round_index)
        if target.path.exists():
            return
        source = RunFolder(self.source)
        shared = self._played_by_main(source)
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
                    if earlier < self.round_index - 1:  # a run with data.export_every skips some
                        continue
                    raise RunFolderError(
                        f"{source.export(earlier)} is missing; it is the policy that the fork begins with"
                    )
                with atomic_folder(run.export(earlier), kind="fork") as temporary:
                    link_tree(source.export(earlier), temporary)
        shared.verify()
        stages = [CANDIDATES]
        if _same(ours, theirs, "oracle", "judging.pair_share", "judging.certainty"):
            if _same(ours, theirs, "opponent", "opponent_engine", "engine", "num_opponent_candidates"):
                stages += ["opponents", "preferences"]
            elif shared.verdicts("") == IMPORTED:
                stages += [IMPORTED]
            else:
                stages += [path.relative_to(shared.path).as_posix() for path in shared.path.glob("preferences/*/self")]
        shared.share(target, stages)

    def _played_by_main(self, source: RunFolder) -> RoundFolder:
        """The phase of the source's round in which the run's main policy played: for most schedules the only one."""
        for phase in range(len(list(source.round(self.round_index).path.glob("phase_*"))) + 1):
            folder = source.round(self.round_index, phase)
            if not folder.is_committed:
                raise ConfigError(f"data.fork_from: {folder} is not a complete round (it has no manifest.json)")
            if folder.manifest["policy"] == policy_name(self.round_index):
                return folder
        raise ConfigError(
            f"data.fork_from: in {source.round(self.round_index)} the main policy {policy_name(self.round_index)} has "
            "not played yet"
        )

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


def _same(ours: dict[str, str], theirs: dict[str, str], *keys: str) -> bool:
    """Whether two runs were started with the same members under these keys of `data`."""
    return all(_under(ours, f"data.init_args.{key}") == _under(theirs, f"data.init_args.{key}") for key in keys)


def _under(config: dict[str, str], prefix: str) -> dict[str, str]:
    return {key: value for key, value in config.items() if key == prefix or key.startswith(f"{prefix}.")}
