"""What the verbs that measure a policy need from a run: its judge, its engine, and its policies."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.contestants import START, Contestant, Member, read_contestant
from sppo_lightning.evaluation.responses import ResponseBank
from sppo_lightning.io.carriers import PREFERENCES, preferences_from, preferences_table
from sppo_lightning.io.chunks import find_chunk, read_chunk, write_chunk
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.types import Candidates, PolicyHandle, PreferenceMatrix, Progress, Prompt

_ROUND = re.compile(r"round_(\d{3,})")
_PAIRS_A_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """A run, or a configuration without one, as the measuring verbs see it. Nothing of a run is changed by it.

    Attributes:
        run: the run's folder; None where none has begun.
        folder: where responses and verdicts are kept: the run's `eval`, or a folder beside the output.
        start: `model.policy`.
        engine: `data.engine`.
        oracle: `data.oracle`.
        judge: names the oracle and its settings in folder names.
        open_policy: a member's weights and tokenizer.
        seed: `seed_everything`.
        max_prompt_tokens: `data.max_prompt_tokens`.
        progress: tells the person who waits.
    """

    run: Path | None
    folder: Path
    start: str
    engine: Engine
    oracle: PreferenceOracle
    judge: str
    open_policy: Callable[[Member], PolicyHandle]
    seed: int
    max_prompt_tokens: int
    progress: Progress

    def contestant(self, text: str) -> Contestant:
        """Whom a person means: see `evaluation.contestants.read_contestant`.

        Raises:
            ConfigError: nobody is called that.
        """
        if self.run is None and text == START:
            text = self.start
        return read_contestant(text, self.run, self.start)

    def newest(self) -> str:
        """The run's last policy, or the start policy where it has none."""
        rounds = self.rounds()
        return rounds[-1] if rounds else START

    def rounds(self) -> list[str]:
        """The run's policies after the start, in order."""
        return sorted(path.name for path in (self.run or Path()).glob("exports/round_*") if path.is_dir())

    def before(self, policy: str) -> str:
        """The policy of the round before.

        Raises:
            ConfigError: the policy is not one of the run's rounds.
        """
        match = _ROUND.fullmatch(policy)
        if match is None:
            raise ConfigError(
                f"--against previous: {policy} is no policy of a round, so none comes before it; name the others: "
                "--against start round_001"
            )
        number = int(match[1])
        return f"round_{number - 1:03d}" if number else START

    def bank(self, prompts: Sequence[Prompt], label: str) -> ResponseBank:
        """Where the responses to these prompts are kept; made where they are missing."""
        return ResponseBank(
            self.folder,
            prompts=prompts,
            engine=self.engine,
            open_policy=self.open_policy,
            seed=self.seed,
            progress=self.progress,
            label=label,
        )

    def judged(self, place: str, ours: Candidates, theirs: Candidates | None = None) -> PreferenceMatrix:
        """The judge's verdicts, kept chunk by chunk: a kill loses at most one.

        Args:
            place: a folder below `folder` that stands for exactly these responses.
            ours: K responses to each prompt.
            theirs: J others; None compares ours with each other.

        Raises:
            OracleError: the judge failed; whole chunks are kept.
            RunFolderError: a stored chunk is damaged.
        """
        folder = self.folder / "judged" / self.judge / place
        columns = theirs or ours
        K, J = max(ours.num_candidates), max(columns.num_candidates)
        pairs = K * J if theirs else K * (K - 1) // 2
        size = max(1, _PAIRS_A_CHUNK // pairs)
        parts = [slice(begin, begin + size) for begin in range(0, len(ours), size)]
        missing = [index for index in range(len(parts)) if find_chunk(folder, index) is None]
        if missing:
            bar = self.progress("judging", sum(len(ours.prompts[parts[index]]) for index in missing) * pairs, "pairs")
            try:
                for index in missing:
                    mine = ours.at(parts[index])
                    matrix = self.oracle.compare(mine, theirs.at(parts[index]) if theirs else None)
                    write_chunk(folder, index, preferences_table(mine.prompts, matrix), PREFERENCES, kind="verdicts")
                    bar.update(len(mine) * pairs)
            finally:
                self.oracle.close()
                bar.close()
        paths = [find_chunk(folder, index) for index in range(len(parts))]
        return preferences_from(
            pa.concat_tables([read_chunk(path) for path in paths if path]), self_play=theirs is None
        )


def digest(content: Any) -> str:
    """Eight digits that stand for JSON content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def judge_name(oracle: PreferenceOracle, settings: Mapping[str, Any]) -> str:
    """The oracle's name, and digits of its configuration: another temperature is another judge."""
    return f"{oracle.name}-{digest(settings)}"
