"""A rule that a response keeps or breaks, by some amount."""

from __future__ import annotations

import copy
import math
import re
from typing import Self

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import pad
from sppo_lightning.oracles.score_to_preference import Scorer
from sppo_lightning.types import Candidates


class Forbidden(Scorer):
    r"""Scores minus the number of places where a regular expression is found, so that 0 means it is not there.

    Args:
        pattern: the expression; `(?i)` in front of it ignores case, `^Imagine:` forbids an opener.

    Raises:
        ConfigError: not a regular expression, or one that is found in the empty text, which is found everywhere.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"Forbidden: pattern {pattern!r} is not a regular expression ({error})") from error
        if self._pattern.search(""):
            raise ConfigError(f"Forbidden: pattern {pattern!r} is found in the empty text, so every response breaks it")

    def score(self, candidates: Candidates) -> Tensor:
        """Returns [B, K] minus the number of matches."""
        counts = [[-float(len(self._pattern.findall(text))) for text in texts] for texts in candidates.texts]
        return pad(counts, float("nan"), torch.float32)


class Constraint:
    """Responses must score at least so much; the amount by which one breaks the rule is what it lacks.

    Args:
        judge: a scorer (`Forbidden`, a reward model, ...) or an oracle that gives scores (`Verifier`: 1 for right).
        at_least: the least score that keeps the rule.

    Raises:
        ConfigError: the oracle gives no scores, or the least score is not a number.
    """

    def __init__(self, judge: Scorer | PreferenceOracle, at_least: float = 0.0) -> None:
        if isinstance(judge, PreferenceOracle) and not judge.gives_scores:
            raise ConfigError(
                f"Constraint: {judge.name} compares responses and gives none of them a score, so it cannot say whether "
                "one breaks a rule; use a scorer such as Forbidden, or an oracle with scores such as Verifier"
            )
        if not math.isfinite(at_least):
            raise ConfigError(f"Constraint: at_least must be a number, got {at_least}")
        self.judge, self.at_least = judge, at_least

    @property
    def oracle(self) -> PreferenceOracle | None:
        """The judge, if it is an oracle."""
        return self.judge if isinstance(self.judge, PreferenceOracle) else None

    def asking(self, oracle: PreferenceOracle) -> Self:
        """The same rule by another oracle."""
        other = copy.copy(self)
        other.judge = oracle
        return other

    def broken_by(self, candidates: Candidates) -> Tensor:
        """By how much each response breaks the rule.

        Returns:
            float64 [B, K], 0 where it is kept, NaN where a prompt has fewer than K responses.

        Raises:
            OracleError: a score is missing or not a number, or the shape is wrong.
        """
        judge = type(self.judge).__name__
        if isinstance(self.judge, Scorer):
            scores_BK: Tensor | None = self.judge.score(candidates)
        else:
            scores_BK = self.judge.compare(candidates).scores_BK
        num_K = torch.tensor(candidates.num_candidates)
        expected = (len(candidates), int(num_K.max()))
        if scores_BK is None or tuple(scores_BK.shape) != expected:
            given = "no scores" if scores_BK is None else f"scores of shape {tuple(scores_BK.shape)}"
            raise OracleError(f"Constraint: {judge} returned {given}; they must be [prompts, candidates] = {expected}")
        exists_BK = torch.arange(expected[1]) < num_K[:, None]
        bad_BK = exists_BK & ~torch.isfinite(scores_BK)
        if bool(bad_BK.any()):
            b, i = (int(index) for index in bad_BK.nonzero()[0])
            raise OracleError(
                f"Constraint: {judge} scored candidate {i} at prompt {candidates.prompts[b].prompt_id} with "
                f"{float(scores_BK[b, i])} ({int(bad_BK.sum())} such scores); a score must be a finite number"
            )
        return (self.at_least - scores_BK.double()).clamp(min=0).masked_fill(~exists_BK, float("nan"))

    def close(self) -> None:
        """Frees what the judge loaded."""
        self.judge.close()
