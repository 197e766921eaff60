"""Best of n: how often the best of a policy's first n responses wins, chosen and scored on different opponents.

The largest of n noisy win rates is too large on average. So the opponent's responses are split in two: on one half the
best response is chosen, on the other it is scored; then the halves change places, and the mean of both counts. What
comes out is the unbiased win rate of a reply that can really be given, and so a lower bound on the best reply's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from sppo_lightning.evaluation.contestants import Contestant, Member
from sppo_lightning.evaluation.verdicts import Samples, VerdictBank
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.intervals import Interval, win_rate_interval


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """The win rate of the best of n responses.

    Attributes:
        n: how many responses there were to choose from at each prompt.
        win_rate: mean over prompts with its 95 % interval.
        win_rate_B: [B] of each prompt; NaN where nothing could be chosen or scored.
    """

    n: int
    win_rate: Interval
    win_rate_B: Array


@dataclass(frozen=True, kw_only=True)
class OpponentSamples:
    """What candidates were judged against at each prompt: all members' responses, in two halves.

    Attributes:
        probs_BKJ: P(candidate beats the opponent's response); NaN where it was not judged.
        weights_J: the weight of each response in the opponent's mixture; they add up to 1.
        half_J: 0 or 1, the half it belongs to; every member has responses in both.
    """

    probs_BKJ: Array
    weights_J: Array
    half_J: np.ndarray

    def reweighted(self, weights: ArrayLike) -> OpponentSamples:
        """The same responses as those of a mixture with other weights, one for each of its members in order."""
        weights_M = np.asarray(weights, dtype=np.float64)
        num_samples = len(self.weights_J) // len(weights_M)
        return replace(self, weights_J=np.repeat(weights_M / num_samples, num_samples))

    def at(self, prompts_B: np.ndarray) -> OpponentSamples:
        """Some of the prompts, by their places or a mask."""
        return replace(self, probs_BKJ=self.probs_BKJ[prompts_B])


def candidate_samples(bases: Sequence[Member], n: int, first: int) -> list[Samples]:
    """N responses to choose from, the same number of each base policy (one more of the first ones where n is odd).

    Args:
        bases: whose responses; a policy that stands there twice counts once.
        n: how many, at least one of each base.
        first: their first sample: a reply that is one of the opponent's own responses would be judged against itself,
            so it lies behind those.
    """
    members = list(dict.fromkeys(bases))
    counts = [n // len(members) + (place < n % len(members)) for place in range(len(members))]
    return [Samples(member=member, count=count, first=first) for member, count in zip(members, counts, strict=True)]


def opponent_samples(
    verdicts: VerdictBank, candidates: Sequence[Samples], opponent: Contestant, num_samples: int
) -> OpponentSamples:
    """Judges candidates against an opponent; of a mixture every member answers, and counts by its weight.

    Args:
        verdicts: the judge and its prompts.
        candidates: the responses to choose from. Those of several policies take turns, so that the first n are n of
            all of them.
        opponent: a policy or a mixture.
        num_samples: responses of each of its members, at least 2.

    Raises:
        EngineError, OracleError: generation or judging failed; what is whole is kept.
    """
    assert num_samples >= 2, "one half chooses, the other scores"
    theirs = [Samples(member=member, count=num_samples) for member, _ in opponent.members]
    verdicts.judge((ours, columns) for ours in candidates for columns in theirs)
    turns = sorted((k, place) for place, samples in enumerate(candidates) for k in range(samples.count))
    offsets = np.cumsum([0, *(samples.count for samples in candidates)])
    order_K = [int(offsets[place]) + k for k, place in turns]
    parts = [
        np.concatenate([_probs(verdicts, samples, columns) for samples in candidates], axis=1)[:, order_K]
        for columns in theirs
    ]
    weights_J = np.repeat([weight / num_samples for _, weight in opponent.members], num_samples)
    halves = np.tile(np.arange(num_samples) % 2, len(opponent.members))
    return OpponentSamples(probs_BKJ=np.concatenate(parts, axis=-1), weights_J=weights_J, half_J=halves)


def _probs(verdicts: VerdictBank, candidates: Samples, columns: Samples) -> Array:
    matrix = verdicts.compare(candidates, columns)
    assert matrix.judged_BKJ is not None
    return np.where(matrix.judged_BKJ.numpy(), matrix.probs_BKJ.double().numpy(), np.nan)


def best_of_n(against: OpponentSamples, ns: Sequence[int] | None = None) -> list[BestOfN]:
    """The win rate of the best of the first n candidates, for growing n.

    Args:
        against: the candidates' verdicts.
        ns: the numbers of candidates; not set: 1, 2, 4, ... and all.

    Returns:
        One entry for each n. With n nested like this the win rate by which responses are chosen cannot fall as n
        grows; the one they are scored by can only fall by noise.
    """
    K = against.probs_BKJ.shape[1]
    win_rates = [_win_rates(against, half) for half in (0, 1)]
    found = []
    for n in ns or doubling(K):
        scores_2B = np.stack([_chosen(win_rates[half][:, :n], win_rates[1 - half][:, :n]) for half in (0, 1)])
        scored_B = np.isfinite(scores_2B).sum(axis=0)
        win_rate_B = np.divide(
            np.nansum(scores_2B, axis=0), scored_B, out=np.full(len(scored_B), np.nan), where=scored_B > 0
        )
        judged = win_rate_B[np.isfinite(win_rate_B)]
        found.append(BestOfN(n=n, win_rate=win_rate_interval([[rate] for rate in judged]), win_rate_B=win_rate_B))
    return found


def doubling(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, which is always among them."""
    powers = [2**k for k in range(most.bit_length()) if 2**k < most]
    return [*powers, most]


def _win_rates(against: OpponentSamples, half: int) -> Array:
    """[B, K] win rates against one half of the opponent's responses; NaN where none was judged."""
    part = against.half_J == half
    probs_BKJ, weights_J = against.probs_BKJ[..., part], against.weights_J[part]
    judged = np.isfinite(probs_BKJ)
    total = np.where(judged, probs_BKJ, 0.0) @ weights_J
    weight = judged @ weights_J
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def _chosen(choosing_BK: Array, scoring_BK: Array) -> Array:
    """[B] the score of the candidate that was chosen; NaN where none could be."""
    usable = np.isfinite(choosing_BK) & np.isfinite(scoring_BK)
    choice_B = np.where(usable, choosing_BK, -np.inf).argmax(axis=1)
    rows = np.arange(len(choice_B))
    return np.where(usable[rows, choice_B], scoring_BK[rows, choice_B], np.nan)
