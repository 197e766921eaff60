"""Elo ratings: Bradley-Terry scores on chess's scale."""

from __future__ import annotations

import math

import numpy as np

from sppo_lightning.functional.bradley_terry import bradley_terry_scores
from sppo_lightning.functional.games import Array

POINTS_PER_NAT = 400 / math.log(10)
"""A lead of 400 points means odds of ten to one."""


def elo_ratings(win_rates_NN: Array, num_prompts: int, anchor: float = 1000.0) -> Array:
    """Ratings whose differences explain all win rates best, each pair counting the same; the first player's is fixed.

    A rating cannot express a cycle: look at the win rates, too. Half a won and half a lost prompt are added to each
    pair, or a clean sweep would be rated infinitely far away.

    Args:
        win_rates_NN: [..., N, N] P(row beats column), P + P^T = 1.
        num_prompts: how many prompts the win rates are means over.
        anchor: the rating of the first player.

    Returns:
        [..., N] points.
    """
    shrunk = (win_rates_NN * num_prompts + 0.5) / (num_prompts + 1)
    scores = bradley_terry_scores(shrunk, np.zeros(win_rates_NN.shape[-1]))
    return anchor + POINTS_PER_NAT * (scores - scores[..., :1])
