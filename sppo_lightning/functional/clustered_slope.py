"""The slope of verdicts on one number, with an interval that counts prompts rather than comparisons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, stdtrit

from sppo_lightning.functional.games import Array
from sppo_lightning.functional.intervals import Interval

_MAX_NEWTON_STEPS = 100
_TOLERANCE = 1e-10


def logistic_slope(
    x_M: Array,
    outcome_M: Array,
    prompt_M: NDArray[np.int64],
    *,
    log_scale: bool = False,
    confidence: float = 0.95,
) -> Interval | None:
    """Maximises the likelihood of P(first wins) = sigmoid(slope * x), without a constant: x = 0 favours nobody.

    The interval is Student's with the cluster-robust standard error (Liang and Zeger, Biometrika 73, 1986), so that
    outcomes of one prompt may depend on each other, and as many degrees of freedom as prompts less one.

    Args:
        x_M: [M] of each comparison, such as a difference of scores or a log ratio of lengths.
        outcome_M: [M] in [0, 1]: 1 where the first won, 0 where the second did, or a share of votes.
        prompt_M: [M] the prompt of each comparison, any integers.
        log_scale: take the interval symmetric around log(slope), for a slope that is a scale and must be positive;
            with a slope of 0 or less it stays on the plain scale.
        confidence: in (0, 1).

    Returns:
        The slope, unbounded on both sides where all comparisons are of one prompt; or None where there is no best one:
        every x is 0, or the outcomes follow the sign of x (or its opposite) without exception.
    """
    used = x_M != 0
    x, outcome = x_M[used], outcome_M[used]
    # A certain outcome against the sign of x bounds the slope above, one along it below; any uncertain one does both.
    if not ((x > 0) & (outcome < 1) | (x < 0) & (outcome > 0)).any():
        return None
    if not ((x > 0) & (outcome > 0) | (x < 0) & (outcome < 1)).any():
        return None
    largest = np.abs(x).max()
    z = x / largest
    slope = 0.0
    for _ in range(_MAX_NEWTON_STEPS):
        fit = expit(slope * z)
        gradient, curvature = float((z * (outcome - fit)).sum()), float((z**2 * fit * (1 - fit)).sum())
        step = gradient / curvature
        # As in bradley_terry_scores: |z| <= 1, and so shortened a step always descends.
        slope += float(np.sign(step) * np.log1p(abs(step)))
        if abs(step) < _TOLERANCE * (1 + abs(slope)):
            break
    else:
        raise AssertionError(f"Newton's method was {step:.3g} away after {_MAX_NEWTON_STEPS} steps")
    _, place_M = np.unique(prompt_M[used], return_inverse=True)
    scores_G = np.bincount(place_M, weights=z * (outcome - expit(slope * z)))
    G = len(scores_G)
    if G == 1:
        return Interval(estimate=slope / largest, low=-np.inf, high=np.inf, confidence=confidence)
    half_width = float(stdtrit(G - 1, (1 + confidence) / 2) * np.sqrt((scores_G**2).sum() * G / (G - 1)) / curvature)
    if log_scale and slope > 0:
        factor = float(np.exp(half_width / slope))
        low, high = slope / factor, slope * factor
    else:
        low, high = slope - half_width, slope + half_width
    return Interval(estimate=slope / largest, low=low / largest, high=high / largest, confidence=confidence)
