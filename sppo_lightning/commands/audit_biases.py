"""Does the judge favour a place, or length?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sppo_lightning.commands.audit_section import Section, counted, numbers, too_wide
from sppo_lightning.functional.clustered_slope import logistic_slope
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.intervals import win_rate_interval
from sppo_lightning.io.votes import Votes


def position(votes: Votes) -> Section:
    """P(first wins), and how often the verdict on a pair turns with the order in which it is shown."""
    question = "Does the place decide?"
    if not votes.order_known:
        return Section(
            key="position",
            question=question,
            answer="Cannot be said: the input does not tell which response was shown first.",
            tone="unknown",
        )
    orders = _both_orders(votes)
    if len(orders.prompt_P) == 0:
        rate = win_rate_interval(by_prompt(votes.share_first, votes.prompt_M))
        return Section(
            key="position",
            question=question,
            answer=f"Cannot be said for certain: no pair was judged in both orders. The first place wins {rate}.",
            tone="unknown",
            figures=(("P(first wins)", str(rate)),),
            notes=("P(first wins) is the judge's bias only if the order of each pair was drawn at random.",),
            data={"first_wins": numbers(rate)},
        )
    first_P = (orders.forward_P + orders.backward_P) / 2
    rate = win_rate_interval(by_prompt(first_P, orders.prompt_P))
    # In both orders the share is that of whoever stands first: above 1/2 in both, the place decided.
    decided_P = (orders.forward_P != 0.5) & (orders.backward_P != 0.5)
    flipped_P = ((orders.forward_P > 0.5) == (orders.backward_P > 0.5)) & decided_P
    to_first = int((flipped_P & (orders.forward_P > 0.5)).sum())
    figures = [("P(first wins)", str(rate))]
    data = {"first_wins": numbers(rate), "pairs": len(first_P), "flips": int(flipped_P.sum()), "to_first": to_first}
    if decided_P.any():
        flips = win_rate_interval(by_prompt(flipped_P[decided_P].astype(float), orders.prompt_P[decided_P]))
        figures.append(("verdicts that flip with the order", str(flips)))
        figures.append(("flips towards the first place", f"{to_first} of {int(flipped_P.sum())}"))
        data["flip_share"] = numbers(flips)
    notes = ["From pairs judged in both orders, so that better responses stand as often first as second."]
    if not decided_P.all():
        notes.append(f"{counted(int((~decided_P).sum()), 'pair')} tied in an order: no flip can be told there.")
    if not np.isnan(votes.num_votes).all():
        notes.append("A noisy judge flips without a bias; P(first wins) apart from 0.5 is what shows one.")
    left_out = len(votes.prompt_M) - orders.num_comparisons
    if left_out:
        notes.append(f"{counted(left_out, 'comparison')} of pairs judged in one order only not used.")
    biased = not rate.low <= 0.5 <= rate.high
    unknown = "" if biased else too_wide(rate)
    place = "first" if rate.estimate > 0.5 else "second"
    return Section(
        key="position",
        question=question,
        answer=f"Yes, it favours the {place} place: the first wins {rate} of both orders taken together."
        if biased
        else unknown or f"Not that one could see: the first place wins {rate} of both orders taken together.",
        tone="bad" if biased else "unknown" if unknown else "good",
        figures=tuple(figures),
        notes=tuple(notes),
        data=data,
    )


@dataclass(frozen=True)
class _BothOrders:
    """P pairs that were judged in both orders: P(whoever stands first wins) in either, and where they come from."""

    prompt_P: NDArray[np.int64]
    forward_P: Array
    backward_P: Array
    num_comparisons: int


def _both_orders(votes: Votes) -> _BothOrders:
    low_M, high_M = np.minimum(votes.first_M, votes.second_M), np.maximum(votes.first_M, votes.second_M)
    keys, pair_M = np.unique(np.stack([votes.prompt_M, low_M, high_M], axis=1), axis=0, return_inverse=True)
    pair_M = pair_M.reshape(-1)
    weight_M = np.where(np.isnan(votes.num_votes), 1.0, votes.num_votes)
    shares, count_P = [], np.zeros(len(keys))
    for in_order_M in (votes.first_M == low_M, votes.first_M != low_M):
        weight_P = np.bincount(pair_M, weights=weight_M * in_order_M)
        points_P = np.bincount(pair_M, weights=weight_M * in_order_M * votes.share_first)
        shares.append(np.divide(points_P, weight_P, out=np.full(len(keys), np.nan), where=weight_P > 0))
        count_P += np.bincount(pair_M, weights=in_order_M)
    both_P = ~np.isnan(shares[0] + shares[1])
    return _BothOrders(keys[both_P, 0], shares[0][both_P], shares[1][both_P], int(count_P[both_P].sum()))


def length(votes: Votes) -> Section:
    """P(the longer response wins), and the slope of the verdict's log-odds on the log ratio of lengths."""
    question = "Does length decide?"
    longest = max(map(len, votes.lengths))
    lengths_BK = np.array([[*row, *[np.nan] * (longest - len(row))] for row in votes.lengths])
    first_M, second_M = lengths_BK[votes.prompt_M, votes.first_M], lengths_BK[votes.prompt_M, votes.second_M]
    known_M = ~np.isnan(first_M + second_M)
    if not known_M.any():
        return Section(
            key="length",
            question=question,
            answer="Cannot be said: the input has neither lengths nor texts.",
            tone="unknown",
        )
    used_M = known_M & (first_M != second_M)
    if not used_M.any():
        return Section(
            key="length",
            question=question,
            answer="Cannot be said: all responses that were compared are equally long.",
            tone="unknown",
        )
    share_M, prompt_M = votes.share_first[used_M], votes.prompt_M[used_M]
    longer_M = np.where((first_M > second_M)[used_M], share_M, 1 - share_M)
    rate = win_rate_interval(by_prompt(longer_M, prompt_M))
    # An empty response counts as one unit long: log(0) would decide the slope alone.
    ratio_M = np.log(np.maximum(first_M, 1) / np.maximum(second_M, 1))[used_M]
    slope = logistic_slope(ratio_M, share_M, prompt_M)
    figures = [("P(longer wins)", str(rate)), ("compared pairs of unequal length", f"{int(used_M.sum()):,}")]
    notes = []
    if slope is None:
        notes.append("No slope: the longer (or the shorter) response wins without exception.")
    elif np.isfinite(slope.low):
        figures.insert(1, ("slope on the log ratio of lengths", str(slope)))
        notes.append(f"Twice as long multiplies the odds of winning by {2**slope.estimate:.2f}.")
    equal, unmeasured = int((known_M & ~used_M).sum()), int((~known_M).sum())
    if equal:
        notes.append(f"{counted(equal, 'comparison')} of equally long responses not used.")
    if unmeasured:
        notes.append(f"{counted(unmeasured, 'comparison')} without lengths not used.")
    notes.append(f"Lengths in {votes.length_unit}. Longer responses may also be better: this is no proof of a bias.")
    apart = not rate.low <= 0.5 <= rate.high
    unknown = "" if apart else too_wide(rate)
    kind = "longer" if rate.estimate > 0.5 else "shorter"
    return Section(
        key="length",
        question=question,
        answer=f"It goes with the verdict: the {kind} response wins more often, P(longer wins) = {rate}."
        if apart
        else unknown or f"Not that one could see: the longer response wins {rate}.",
        tone="bad" if apart else "unknown" if unknown else "good",
        figures=tuple(figures),
        notes=tuple(notes),
        data={"longer_wins": numbers(rate), "slope": None if slope is None else numbers(slope)},
    )


def by_prompt(values_M: Array, prompt_M: NDArray[np.int64]) -> list[Array]:
    """The values of each prompt."""
    order_M = np.argsort(prompt_M, kind="stable")
    return np.split(values_M[order_M], np.flatnonzero(np.diff(prompt_M[order_M])) + 1)
