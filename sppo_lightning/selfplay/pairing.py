"""The socket for pairing rules: which responses of a prompt, and which pairs of them, are trained on.

Win rates come from ALL judged responses before anything is selected here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sppo_lightning.types import Targets


class Pairing(ABC):
    """Chooses the training rows and pairs of one prompt."""

    @abstractmethod
    def __call__(self, probs_KK: Tensor, judged_KK: Tensor, win_rate_K: Tensor, trainable_K: Tensor) -> Targets:
        """Decides for one prompt.

        Args:
            probs_KK: P(row beats column) among the prompt's K candidates.
            judged_KK: where that was judged.
            win_rate_K: P(y > opponent); NaN where a response was not judged.
            trainable_K: responses that may be trained on: judged, and not truncated where those are masked or dropped.

        Returns:
            the targets; no rows where the prompt has nothing to teach (a tie, fewer than two trainable responses).
        """


def _pairs(candidate_pairs: list[tuple[int, int]], probs_KK: Tensor, judged_KK: Tensor) -> dict[str, tuple]:
    """The pair fields of `Targets`: unjudged pairs are left out, never guessed."""
    judged = [(i, j) for i, j in candidate_pairs if judged_KK[i, j]]
    return {
        "pairs": tuple(judged),
        "pair_probs": tuple(float(probs_KK[i, j]) for i, j in judged),
        "pair_weights": (1.0,) * len(judged),
    }


class BestWorst(Pairing):
    """The response with the highest win rate and the one with the lowest, as in SPPO's official runs."""

    def __call__(self, probs_KK: Tensor, judged_KK: Tensor, win_rate_K: Tensor, trainable_K: Tensor) -> Targets:
        """See `Pairing`. All trainable win rates equal is a tie: the prompt is skipped."""
        best = int(torch.where(trainable_K, win_rate_K, -torch.inf).argmax())
        worst = int(torch.where(trainable_K, win_rate_K, torch.inf).argmin())
        # Equal but for the rounding of sums in another order is a tie, too.
        if int(trainable_K.sum()) < 2 or torch.isclose(win_rate_K[best], win_rate_K[worst]):
            return Targets(win_rate_K=win_rate_K, rows=(), row_weights=())
        return Targets(
            win_rate_K=win_rate_K,
            rows=(best, worst),
            row_weights=(1.0, 1.0),
            **_pairs([(best, worst)], probs_KK, judged_KK),
        )


class All(Pairing):
    """Every trainable response, and every judged pair of them that is not a tie (SPPO's paper allows any subset)."""

    def __call__(self, probs_KK: Tensor, judged_KK: Tensor, win_rate_K: Tensor, trainable_K: Tensor) -> Targets:
        """See `Pairing`. Responses that all tie at 1/2 still give rows: their target is 0."""
        rows = [int(k) for k in trainable_K.nonzero().flatten()]
        if len(rows) < 2:
            return Targets(win_rate_K=win_rate_K, rows=(), row_weights=())
        ordered = [(i, j) for i in rows for j in rows if i != j and probs_KK[i, j] > 0.5]
        return Targets(
            win_rate_K=win_rate_K,
            rows=tuple(rows),
            row_weights=(1.0,) * len(rows),
            **_pairs(ordered, probs_KK, judged_KK),
        )


class ExpectedVerdicts(Pairing):
    """Every judged pair both ways round, weighted with the probability that it is so judged.

    The losses on pairs are stated for a winner drawn from P. This is their expectation over that draw: a response that
    wins with 0.9 is chosen with weight 0.9 and rejected with weight 0.1. The constant target of INPO, MNPO and ONPO is
    the exact step only so, and DPO has a finite optimum only so.
    """

    def __call__(self, probs_KK: Tensor, judged_KK: Tensor, win_rate_K: Tensor, trainable_K: Tensor) -> Targets:
        """See `Pairing`."""
        rows = [int(k) for k in trainable_K.nonzero().flatten()]
        if len(rows) < 2:
            return Targets(win_rate_K=win_rate_K, rows=(), row_weights=())
        pairs = [(i, j) for i in rows for j in rows if i != j and judged_KK[i, j] and probs_KK[i, j] > 0]
        probs = tuple(float(probs_KK[i, j]) for i, j in pairs)
        return Targets(
            win_rate_K=win_rate_K,
            rows=tuple(rows),
            row_weights=(1.0,) * len(rows),
            pairs=tuple(pairs),
            pair_probs=probs,
            pair_weights=probs,
        )
