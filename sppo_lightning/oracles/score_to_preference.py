"""Turns scalar scores into preferences, for judges that rate one response at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask
from sppo_lightning.types import Candidates, PreferenceMatrix


class Scorer(ABC):
    """Rates each response by itself. Subclasses take plain constructor arguments.

    Attributes:
        costs: see `PreferenceOracle`.
        usd_per_query: what a score costs, where the scorer knows.
        not_deciding: see `PreferenceOracle`.
    """

    costs: bool = True
    usd_per_query: float | None = None
    not_deciding: frozenset[str] = frozenset()

    @property
    def itself(self) -> Scorer:
        """Whose scores these are: another scorer's where this one only keeps them."""
        return self

    @abstractmethod
    def score(self, candidates: Candidates) -> Tensor:
        """Returns [B, K] finite scores, higher is better; NaN exactly where a prompt has fewer than K responses."""

    def close(self) -> None:  # noqa: B027 - most scorers hold nothing
        """Frees what `score` loaded. The scorer can be used again afterwards."""


class TargetLength(Scorer):
    """Prefers responses of a given length: score = -|number of response tokens - target|, in tokens.

    Deterministic and free of charge: for smoke tests, and for seeing whether a policy follows its oracle at all.

    Args:
        num_tokens: the preferred length, the terminator included.

    Raises:
        ConfigError: a target below 1.
    """

    costs = False

    def __init__(self, num_tokens: int = 128) -> None:
        if num_tokens < 1:
            raise ConfigError(f"TargetLength: num_tokens must be at least 1, got {num_tokens}")
        self.num_tokens = num_tokens

    def score(self, candidates: Candidates) -> Tensor:
        """Returns minus the distance to the target; NaN where there is no response."""
        K = max(candidates.num_candidates)
        return torch.tensor(
            [
                [-float(abs(len(ids) - self.num_tokens)) for ids in responses] + [float("nan")] * (K - len(responses))
                for responses in candidates.token_ids
            ]
        )


class ScoreToPreference(PreferenceOracle):
    """Bradley-Terry preferences from scores: P(y > y') = sigmoid(scale * (score(y) - score(y'))).

    Such preferences are transitive by construction: this oracle cannot express a cycle. The scores are kept beside the
    probabilities, for objectives that want them.

    Args:
        scorer: rates each response.
        scale: log-odds for one unit of score; its inverse is the temperature. Must be positive.

    Raises:
        ConfigError: a scale that is not positive.
    """

    gives_scores = True
    asked_by = "response"

    def __init__(self, scorer: Scorer, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ConfigError(f"ScoreToPreference: scale must be positive, got {scale}")
        self.scorer = scorer
        self.scale = scale

    @property
    def name(self) -> str:
        """The scorer's class name: two scorers in one run are two oracles."""
        return f"ScoreToPreference-{type(self.scorer).__name__}"

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Scores every response once.

        Raises:
            OracleError: the scorer's answer has the wrong shape, or a response has no finite score.
        """
        columns = check_same_prompts(candidates, opponents)
        scores_BK = self._scores(candidates)
        scores_BJ = scores_BK if opponents is None else self._scores(opponents)
        judged_BKJ = judged_mask(candidates, columns)
        margins_BKJ = scores_BK[:, :, None] - scores_BJ[:, None, :]
        return PreferenceMatrix(
            probs_BKJ=torch.sigmoid(self.scale * margins_BKJ).masked_fill(~judged_BKJ, 0.5).float(),
            judged_BKJ=judged_BKJ,
            scores_BK=scores_BK.float(),
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )

    def _scores(self, candidates: Candidates) -> Tensor:
        scores_BK = self.scorer.score(candidates).double()
        num_K = torch.tensor(candidates.num_candidates)
        expected = (len(candidates), int(num_K.max()))
        scorer = type(self.scorer).__name__
        if tuple(scores_BK.shape) != expected:
            raise OracleError(
                f"{scorer}: scores must be [prompts, candidates] = {expected}, got {tuple(scores_BK.shape)}"
            )
        exists_BK = torch.arange(expected[1]) < num_K[:, None]
        bad_BK = exists_BK & ~torch.isfinite(scores_BK)
        if bool(bad_BK.any()):
            b, i = (int(index) for index in bad_BK.nonzero()[0])
            raise OracleError(
                f"{scorer}: the score of candidate {i} at prompt {candidates.prompts[b].prompt_id} is "
                f"{float(scores_BK[b, i])} ({int(bad_BK.sum())} such scores); a score must be a finite number"
            )
        return scores_BK

    def close(self) -> None:
        """Frees what the scorer loaded."""
        self.scorer.close()
