"""Exploitability as three named lower bounds. None of them is the duality gap.

A policy's duality gap is 2 (max over all replies P(reply beats policy) - 1/2), in [0, 1]: its best reply may be
anything. Whoever plays a particular reply against it learns a lower bound, which is as good as the replies tried: a
policy that beats all earlier ones reads 0 against its checkpoints although it may be wide open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sppo_lightning.evaluation.best_of_n import OpponentSamples, best_of_n
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.intervals import Interval, win_rate_interval


@dataclass(frozen=True, kw_only=True)
class Gap:
    """One lower bound on a policy's exploitability, with its 95 % interval.

    Attributes:
        name: "gap/checkpoints", "gap/best_of_n" or "gap/exploiter".
        interval: in [0, 1]; 0 says nothing, for a policy never loses to itself.
        meaning: one sentence on what it is.
    """

    name: str
    interval: Interval
    meaning: str

    def __str__(self) -> str:
        return f"{self.name} {self.interval}: {self.meaning}"

    def as_dict(self) -> dict[str, Any]:
        """For a json file."""
        return {
            "name": self.name,
            "estimate": self.interval.estimate,
            "low": self.interval.low,
            "high": self.interval.high,
            "meaning": self.meaning,
        }


def checkpoint_gap(win_rates_BC: Array, names: Sequence[str]) -> Gap:
    """`gap/checkpoints`: the best of the stored policies against the policy.

    The largest of several win rates is too large on average, so the checkpoint that is best on one half of the prompts
    plays on the other half, and the other way round.

    Args:
        win_rates_BC: [B, C] P(checkpoint beats the policy) at each prompt, B at least 2; NaN where it was not judged.
        names: the checkpoints.
    """
    half_B = np.arange(len(win_rates_BC)) % 2
    scores: list[float] = []
    for side in (0, 1):
        choosing = win_rates_BC[half_B == side]
        judged_C = np.isfinite(choosing).sum(axis=0)
        mean_C = np.divide(
            np.nansum(choosing, axis=0), judged_C, out=np.full(len(judged_C), -np.inf), where=judged_C > 0
        )
        scoring_B = win_rates_BC[half_B != side, int(mean_C.argmax())]
        scores += scoring_B[np.isfinite(scoring_B)].tolist()
    meaning = (
        f"a lower bound on exploitability: the best of {len(names)} stored policies against this one. Replies that "
        "self-play never visited are not tried, so 0 does not mean unexploitable"
    )
    return Gap(name="gap/checkpoints", interval=_gap(win_rate_interval([[score] for score in scores])), meaning=meaning)


def best_of_n_gap(against: OpponentSamples, base: str) -> Gap:
    """`gap/best_of_n`: at each prompt the best of n responses of a base policy against the policy.

    Chosen on one half of the policy's responses and scored on the other, see `best_of_n`.

    Args:
        against: the base policy's responses, judged against the policy's.
        base: whose responses reply.
    """
    (best,) = best_of_n(against, [against.probs_BKJ.shape[1]])
    meaning = (
        f"a lower bound on exploitability: at each prompt the best of {best.n} responses of {base} against this "
        "policy, chosen on one half of its responses and scored on the other"
    )
    return Gap(name="gap/best_of_n", interval=_gap(best.win_rate), meaning=meaning)


def exploiter_gap(win_rates_by_prompt: Sequence[ArrayLike]) -> Gap:
    """`gap/exploiter`: a best reply that was trained against the frozen policy.

    Args:
        win_rates_by_prompt: for each prompt the verdicts P(exploiter beats policy), on prompts and responses that the
            exploiter was not trained on.
    """
    meaning = (
        "a lower bound on exploitability: a reply trained against this frozen policy, on prompts that it was not "
        "trained on. A longer training could find a better one"
    )
    return Gap(name="gap/exploiter", interval=_gap(win_rate_interval(win_rates_by_prompt)), meaning=meaning)


def _gap(win_rate: Interval) -> Interval:
    """2 (win rate - 1/2), at least 0: the policy itself is a reply, too, and never loses to itself."""
    low, estimate, high = (max(2 * (value - 0.5), 0.0) for value in (win_rate.low, win_rate.estimate, win_rate.high))
    return Interval(estimate=estimate, low=low, high=high, confidence=win_rate.confidence)
