"""The Bradley-Terry fit: the scores whose differences explain pairwise preferences best.

It is what DPO's loss minimises over a population of pairs, and what a scalar reward model can know about a game.
Shape letters as in `games.py`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from sppo_lightning.functional.games import Array

_MAX_NEWTON_STEPS = 500
_TOLERANCE = 1e-12


def bradley_terry_scores(probs_NN: Array, log_weights_N: Array) -> Array:
    """Maximises the likelihood of sigmoid(s_i - s_j) over pairs drawn independently with the given weights.

    The optimum solves sum_j w_j (P_ij - sigmoid(s_i - s_j)) = 0 for every i, here within 1e-12. The equations are those
    of the likelihood divided by w_i, so responses of vanishing weight still get the score that the verdicts on them
    give. Where some responses always beat all others the optimum is infinitely far away; the scores then stop where
    the sigmoid is within 1e-12 of certain, some 28 nats apart.

    Args:
        probs_NN: [..., N, N].
        log_weights_N: [..., N] log of each response's share of the pairs, up to a constant; finite.

    Returns:
        [..., N] scores in nats with weighted mean 0.
    """
    weights = softmax(log_weights_N, axis=-1)
    return _newton(probs_NN, np.broadcast_to(weights[..., None, :], probs_NN.shape), weights)


def bradley_terry_scores_of_pairs(probs_NN: Array, weights_NN: Array) -> Array:
    """As `bradley_terry_scores`, with a weight of each pair: the fit of comparisons that several policies made.

    Args:
        probs_NN: [..., N, N].
        weights_NN: [..., N, N] symmetric and not negative, how often each pair was compared; every response must be
            connected to every other by pairs of a weight above 0.

    Returns:
        [..., N] scores in nats with mean 0.
    """
    shares = weights_NN / weights_NN.sum(axis=-1, keepdims=True)
    return _newton(probs_NN, shares, np.full(probs_NN.shape[:-1], 1 / probs_NN.shape[-1]))


def _newton(probs_NN: Array, shares_NN: Array, weights_N: Array) -> Array:
    """Solves sum_j shares_ij (P_ij - sigmoid(s_i - s_j)) = 0 for every i, with sum_i weights_i s_i = 0."""
    scores = np.zeros(np.broadcast_shapes(probs_NN.shape[:-1], weights_N.shape))
    identity = np.eye(probs_NN.shape[-1])
    for _ in range(_MAX_NEWTON_STEPS):
        fit = expit(scores[..., :, None] - scores[..., None, :])
        residual = ((probs_NN - fit) * shares_NN).sum(axis=-1)
        if np.abs(residual).max() < _TOLERANCE:
            return scores
        curvature = fit * (1 - fit) * shares_NN
        # Minus the residual's Jacobian. Adding the weights to every row fixes the free constant: sum_i w_i s_i = 0.
        jacobian = identity * curvature.sum(axis=-1, keepdims=True) - curvature + weights_N[..., None, :]
        step = np.linalg.solve(jacobian, residual[..., None])[..., 0]
        # Where score differences move by d, the logistic loss's curvature changes by at most e^d. A step shortened to
        # log(1 + d) / d therefore always descends, and full steps remain near the optimum.
        distance = np.maximum(np.ptp(step, axis=-1, keepdims=True), 1e-300)
        scores = scores + step * np.log1p(distance) / distance
    raise AssertionError(f"Newton's method left {np.abs(residual).max():.3g} after {_MAX_NEWTON_STEPS} steps")
