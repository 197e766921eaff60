"""A judge's verdicts between any two policies' stored responses: judged once, kept, and read from either side."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from filelock import FileLock

from sppo_lightning.errors import OracleError
from sppo_lightning.evaluation.contestants import Contestant, Member
from sppo_lightning.evaluation.responses import ResponseBank
from sppo_lightning.io.carriers import PREFERENCES, preferences_from, preferences_table
from sppo_lightning.io.chunks import find_chunk, read_chunk, write_chunk
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.identity import identity
from sppo_lightning.types import Candidates, PreferenceMatrix, ProgressBar

_PAIRS_A_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Some of a policy's responses to each prompt: samples `first`, ..., `first + count - 1`."""

    member: Member
    count: int
    first: int = 0

    def __str__(self) -> str:
        return f"{self.member.name}.{self.first}-{self.first + self.count - 1}"


Match = tuple[Samples, Samples]


class VerdictBank:
    """Judges what is missing, and keeps it: a kill loses at most one chunk.

    Args:
        responses: who said what; verdicts lie beside them, under `head_to_head`.
        oracle: the judge.
        num_prompts: only the first so many prompts are judged. Not set: all.
    """

    def __init__(self, responses: ResponseBank, oracle: PreferenceOracle, num_prompts: int | None = None) -> None:
        self.responses, self.oracle = responses, oracle
        self.num_prompts = len(responses.prompts[:num_prompts])
        judge = f"{oracle.name}-{identity(oracle)[:8]}"
        self._folder = responses.folder / "head_to_head" / judge / f"{responses.key}-{self.num_prompts}"
        self._read: dict[Match, PreferenceMatrix] = {}
        self._said_unjudged = False

    def compare(self, rows: Samples, columns: Samples) -> PreferenceMatrix:
        """P(row response beats column response) for each prompt.

        A against B and B against A are one computation.

        Args:
            rows: K responses of one policy.
            columns: J responses of another, or other responses of the same.

        Returns:
            [B, K, J]; not self-play.

        Raises:
            EngineError, OracleError: generation or judging failed; whole chunks are kept. Or no prompt has a verdict.
            RunFolderError: a stored chunk is damaged.
        """
        if str(rows) > str(columns):
            return _transposed(self.compare(columns, rows))
        match = rows, columns
        if match not in self._read:
            self.judge([match])
            paths = [find_chunk(self._place(match), index) for index in range(self._num_chunks(match))]
            table = pa.concat_tables([read_chunk(path) for path in paths if path])
            matrix = preferences_from(table, self_play=False)
            self._show_unjudged(match, matrix)
            self._read[match] = matrix
        return self._read[match]

    def judge(self, matches: Iterable[Match]) -> None:
        """Makes what is missing of many comparisons, so that one bar tells how long all of them take.

        Raises:
            EngineError, OracleError: generation or judging failed; whole chunks are kept.
        """
        sorted_matches = dict.fromkeys(_canonical(match) for match in matches)
        missing = [match for match in sorted_matches if self._missing(match)]
        if not missing:
            return
        answers = {samples: self._candidates(samples) for match in missing for samples in match}
        total = sum(self.num_prompts * rows.count * columns.count for rows, columns in missing)
        bar = self.responses.progress("judging held-out responses", total, "pairs")
        try:
            for match in missing:
                self._judge(match, answers, bar)
        finally:
            self.oracle.close()
            bar.close()

    def _place(self, match: Match) -> Path:
        return self._folder / f"{match[0]}~{match[1]}"

    def _chunk_prompts(self, match: Match) -> int:
        return max(1, _PAIRS_A_CHUNK // (match[0].count * match[1].count))

    def _num_chunks(self, match: Match) -> int:
        return -(-self.num_prompts // self._chunk_prompts(match))

    def _missing(self, match: Match) -> list[int]:
        chunks = range(self._num_chunks(match))
        return [index for index in chunks if find_chunk(self._place(match), index) is None]

    def _judge(self, match: Match, answers: Mapping[Samples, Candidates], bar: ProgressBar) -> None:
        folder, size, pairs = self._place(match), self._chunk_prompts(match), match[0].count * match[1].count
        self._folder.mkdir(parents=True, exist_ok=True)
        # Processes that need the same verdicts wait for the one that judges them.
        with FileLock(self._folder / ".lock"):
            missing = self._missing(match)
            for index in range(self._num_chunks(match)):
                part = slice(index * size, (index + 1) * size)
                ours, theirs = (answers[samples].at(part) for samples in match)
                if index in missing:
                    matrix = self.oracle.compare(ours, theirs)
                    self._check(matrix, ours, match)
                    write_chunk(folder, index, preferences_table(ours.prompts, matrix), PREFERENCES, kind="verdicts")
                bar.update(len(ours) * pairs)

    def _candidates(self, samples: Samples) -> Candidates:
        return self.responses.responses(
            Contestant.of(samples.member), samples.count, first=samples.first, num_prompts=self.num_prompts
        )

    def _show_unjudged(self, match: Match, matrix: PreferenceMatrix) -> None:
        """Says how many prompts are left out for want of a verdict, once; without any verdict there is no win rate."""
        assert matrix.judged_BKJ is not None
        unjudged = int((~matrix.judged_BKJ.any(2).any(1)).sum())
        if unjudged == self.num_prompts:
            with FileLock(self._folder / ".lock"):
                shutil.rmtree(self._place(match), ignore_errors=True)
            raise OracleError(
                f"{self.oracle.name} has no verdict on {match[0].member.name} against {match[1].member.name} at any of "
                f"the {unjudged} held-out prompts. See why it gives none; then give the same command with "
                "--data.judging.retry_failed true, which asks it again"
            )
        if unjudged and not self._said_unjudged:
            self._said_unjudged = True
            warnings.warn(
                f"{self.oracle.name} has no verdict on {match[0].member.name} against {match[1].member.name} at "
                f"{unjudged} of {self.num_prompts} held-out prompts; they are left out, here and of what follows",
                stacklevel=2,
            )

    def _check(self, matrix: PreferenceMatrix, candidates: Candidates, match: Match) -> None:
        K, J = (samples.count for samples in match)
        expected = (len(candidates), K, J)
        if tuple(matrix.probs_BKJ.shape) != expected:
            raise OracleError(
                f"{type(self.oracle).__name__} returned preferences of shape {tuple(matrix.probs_BKJ.shape)} for "
                f"{expected[0]} prompts with {K} and {J} responses; it must be {expected}"
            )


def _canonical(match: Match) -> Match:
    rows, columns = match
    return match if str(rows) <= str(columns) else (columns, rows)


def win_rates_by_prompt(matrix: PreferenceMatrix) -> list[torch.Tensor]:
    """P(row beats column) of every judged pair of responses, prompt by prompt; prompts without any are left out.

    Prompts are the independent units; give this to `functional.intervals.win_rate_interval`.
    """
    assert matrix.judged_BKJ is not None
    return [
        probs_KJ[judged_KJ]
        for probs_KJ, judged_KJ in zip(matrix.probs_BKJ, matrix.judged_BKJ, strict=True)
        if bool(judged_KJ.any())
    ]


def _transposed(matrix: PreferenceMatrix) -> PreferenceMatrix:
    assert matrix.judged_BKJ is not None
    return PreferenceMatrix(
        probs_BKJ=1 - matrix.probs_BKJ.transpose(1, 2),
        judged_BKJ=matrix.judged_BKJ.transpose(1, 2),
        self_play=False,
        prompt_ids=matrix.prompt_ids,
    )
