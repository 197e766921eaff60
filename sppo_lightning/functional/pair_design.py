"""Which pairs of a prompt's responses are judged when not all of them can be paid for.

Every prefix of an order is balanced (no response is judged much more often than another) and connected as soon as its
length allows. The order is relabelled at random, so each pair is equally likely to be in it, and the mean over a
response's judged opponents is an unbiased estimate of its win rate.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

Entry = tuple[int, int]
_ROUNDING = 1e-9  # .35 * 20 is 6.999999999999999


def share_of(share: float, num_pairs: int, index: int) -> int:
    """How many of a prompt's pairs are judged, so that the prompts together never exceed the share.

    Args:
        share: of all pairs, in (0, 1].
        num_pairs: this prompt's.
        index: the prompt's place, 0-based: a share of 3.5 pairs is 3 at one prompt and 4 at the next.
    """
    wanted = share * num_pairs
    return int((index + 1) * wanted + _ROUNDING) - int(index * wanted + _ROUNDING)


def self_play_order(num_candidates: int, seed: int) -> list[Entry]:
    """Every unordered pair of K responses, in the order in which they are worth judging.

    Rounds of the circle method, in which everybody meets somebody else: two neighbouring rounds form one path through
    all responses, so K - 1 pairs connect them.

    Args:
        num_candidates: K.
        seed: of the random relabelling.
    """
    labels = list(range(num_candidates))
    random.Random(seed).shuffle(labels)
    return [_sorted(labels[i], labels[j]) for i, j in _circle_order(num_candidates)]


def opponents_order(num_candidates: int, num_opponents: int, seed: int) -> list[Entry]:
    """Every (candidate, opponent) entry of a K x J matrix, rows in turn, columns in turn.

    Args:
        num_candidates: K.
        num_opponents: J.
        seed: of the random relabelling.
    """
    rows, columns = list(range(num_candidates)), list(range(num_opponents))
    generator = random.Random(seed)
    generator.shuffle(rows)
    generator.shuffle(columns)
    return [
        (rows[i], columns[(i + shift) % num_opponents]) for shift in range(num_opponents) for i in range(num_candidates)
    ]


def still_open(
    probs_KK: Tensor, judged_KK: Tensor, trainable_K: Tensor, order: Sequence[Entry], certainty: float
) -> list[Entry]:
    """The pairs to judge next until the best and the worst response are known, with their win rates over everybody.

    A response's win rate over the opponents not judged yet is taken to lie around the one over those judged, as far
    away as the judged verdicts scatter. Who is unlikely to be best or worst is not asked about again, except as an
    opponent of those who may be.

    Args:
        probs_KK: P(row beats column).
        judged_KK: where that is known; the diagonal does not matter.
        trainable_K: the responses among which best and worst are chosen.
        order: the pairs in the order in which they are worth judging.
        certainty: that a response which is given up is neither, in [0.5, 1).

    Returns:
        pairs that do not share a response, in the order given; empty when nothing is open.
    """
    K = len(trainable_K)
    known_KK = judged_KK & ~torch.eye(K, dtype=torch.bool)
    num_K = known_KK.sum(1)
    if not bool(trainable_K.any()):
        return []
    mean_K = torch.where(known_KK, probs_KK.double(), 0.0).sum(1) / num_K.clamp(min=1)
    scatter = torch.where(known_KK, (probs_KK.double() - mean_K[:, None]) ** 2, 0.0).sum()
    # Pooled over the rows of the prompt: a row alone has too few. Rows of one verdict say nothing about their scatter.
    deviation = (scatter / (num_K - 1).clamp(min=0).sum()).sqrt() if bool((num_K > 1).any()) else torch.tensor(0.5)
    left_K = 1 - num_K / (K - 1)  # nothing is uncertain once everybody was met
    width_K = NormalDist().inv_cdf(certainty) * deviation * (left_K / num_K.clamp(min=1)).sqrt()
    low_K, high_K = mean_K - width_K, mean_K + width_K
    low_K[num_K == 0], high_K[num_K == 0] = 0.0, 1.0
    # What can be told apart only by rounding is a tie.
    best_K = trainable_K & (high_K >= low_K[trainable_K].max() - 1e-6)
    worst_K = trainable_K & (low_K <= high_K[trainable_K].min() + 1e-6)
    interest = [int(best) + int(worst) for best, worst in zip(best_K, worst_K, strict=True)]
    missing = [(i, j) for i, j in order if not judged_KK[i, j] and interest[i] + interest[j]]
    missing.sort(key=lambda pair: -interest[pair[0]] - interest[pair[1]])  # stable: the given order decides ties
    chosen: list[Entry] = []
    taken: set[int] = set()
    for i, j in missing:
        if i not in taken and j not in taken:
            chosen.append((i, j))
            taken |= {i, j}
    return chosen


def _sorted(i: int, j: int) -> Entry:
    return (i, j) if i < j else (j, i)


@cache
def _circle_order(K: int) -> tuple[Entry, ...]:
    """One seat stands still, the others walk round it; with an odd K the seat that stands still is empty."""
    even = K + K % 2
    degree = [0] * K
    order: list[Entry] = []
    for shift in range(even - 1):
        circle = [even - 1, *((shift + step) % (even - 1) for step in range(even - 1))]
        meetings = [(circle[0], circle[1]), *((circle[1 + s], circle[-s]) for s in range(1, even // 2))]
        met = [pair for pair in meetings if max(pair) < K]
        # Who sat out in the round before goes first, so that a round cut short leaves nobody behind.
        met.sort(key=lambda pair: min(degree[pair[0]], degree[pair[1]]))
        for i, j in met:
            degree[i] += 1
            degree[j] += 1
        order += met
    return tuple(order)
