"""Whether a judge's probabilities mean what they say, on pairs whose better response is known.

Shape letters: M labelled pairs, C bins of confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from sppo_lightning.functional.clustered_slope import logistic_slope
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.intervals import Interval

# Beyond this a probability is a way to say "certain"; its log-odds would be infinite and decide the fit alone.
_CERTAIN = 1e-6
_NUM_BINS = 10
_NUM_SIMULATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Confidence against accuracy, in bins of equal width from 1/2 to 1; a bin without pairs is NaN.

    Attributes:
        counts_C: labelled pairs in each bin.
        confidence_C: the judge's mean probability of the response that it prefers.
        accuracy_C: how often the label agrees.
        error: the expected calibration error, sum_c counts_c / M |accuracy_c - confidence_c| (Guo et al. 2017).
        error_if_calibrated: what 95 % of perfectly calibrated judges of the same confidences stay below. The error is
            never 0 on finitely many pairs, so it means nothing below this.
    """

    counts_C: Array
    confidence_C: Array
    accuracy_C: Array
    error: float
    error_if_calibrated: float


def reliability(probs_M: Array, labels_M: Array, seed: int = 0) -> Reliability:
    """Bins the pairs by the judge's confidence max(p, 1 - p), which does not depend on who stands first.

    Args:
        probs_M: [M] the judge's P(first wins).
        labels_M: [M] 1 where the first is the better one, 0 where the second is, 1/2 for a tie.
        seed: of the simulated calibrated judges.
    """
    confidence_M = np.maximum(probs_M, 1 - probs_M)
    right_M = np.where(probs_M >= 0.5, labels_M, 1 - labels_M)
    bin_M = np.minimum((confidence_M - 0.5) * 2 * _NUM_BINS, _NUM_BINS - 1).astype(np.int64)

    def in_bins(values_M: Array) -> Array:
        return np.bincount(bin_M, weights=values_M, minlength=_NUM_BINS).astype(np.float64)

    def error(right_M: Array) -> float:
        return float(np.abs(in_bins(right_M - confidence_M)).sum()) / len(probs_M)

    counts_C = in_bins(np.ones_like(confidence_M))
    rng = np.random.default_rng(seed)
    simulated = [error((rng.random(len(probs_M)) < confidence_M).astype(float)) for _ in range(_NUM_SIMULATIONS)]
    with np.errstate(invalid="ignore"):
        return Reliability(
            counts_C=counts_C,
            confidence_C=in_bins(confidence_M) / counts_C,
            accuracy_C=in_bins(right_M) / counts_C,
            error=error(right_M),
            error_if_calibrated=float(np.quantile(simulated, 0.95)),
        )


def fit_scale(
    probs_M: Array, labels_M: Array, prompt_M: NDArray[np.int64], confidence: float = 0.95
) -> Interval | None:
    """The factor for the judge's log-odds that makes the labels likeliest: P(first) = sigmoid(scale * logit(p)).

    Its inverse is the temperature of temperature scaling (Guo et al. 2017, section 4.2): below 1 the judge is too sure
    of itself. Probabilities are clipped to [1e-6, 1 - 1e-6].

    Args:
        probs_M: [M] the judge's P(first wins).
        labels_M: [M] 1 where the first is the better one, 0 where the second is, 1/2 for a tie.
        prompt_M: [M] the prompt of each pair; the interval counts prompts.
        confidence: of the interval.

    Returns:
        The scale, or None where the labels bound none (see `logistic_slope`).
    """
    log_odds_M = logit(np.clip(probs_M, _CERTAIN, 1 - _CERTAIN))
    return logistic_slope(log_odds_M, labels_M, prompt_M, log_scale=True, confidence=confidence)
