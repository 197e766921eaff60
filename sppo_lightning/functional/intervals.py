"""Confidence intervals for means over prompts.

Responses to the same prompt are alike, so a thousand comparisons on a hundred prompts are a hundred observations, not a
thousand: everything here counts prompts. To compare two policies on the same prompts, take the interval of the
differences prompt by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Statistic = Callable[[NDArray[np.float64]], float]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and what it may as well have been; prints as "0.731 [0.690, 0.772]".

    Attributes:
        estimate: the estimate from the data as they are.
        low: lower end.
        high: upper end.
        confidence: how often such an interval holds the true value, in (0, 1).
    """

    estimate: float
    low: float
    high: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of independent values: mean +- t(n-1, (1+c)/2) s / sqrt(n).

    Args:
        values: [prompts] one number a prompt.
        confidence: in (0, 1).

    Returns:
        The mean and its interval; a single value leaves it unbounded.

    Raises:
        ValueError: `values` is not a list of at least one finite number, or the confidence is outside (0, 1).
    """
    numbers = _checked(values, confidence)
    mean, n = float(numbers.mean()), len(numbers)
    if n == 1:
        return Interval(estimate=mean, low=-math.inf, high=math.inf, confidence=confidence)
    half_width = float(stdtrit(n - 1, (1 + confidence) / 2) * numbers.std(ddof=1) / math.sqrt(n))
    return Interval(estimate=mean, low=mean - half_width, high=mean + half_width, confidence=confidence)


def win_rate_interval(win_rates_by_prompt: Sequence[ArrayLike], confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a win rate, each prompt first averaged over its own comparisons.

    Wilson (JASA 22, 1927) with Student's t and the effective number of prompts m = p (1 - p) / SE^2, which clustered
    surveys use (Franco, Little, Louis and Slud, J. Surv. Stat. Methodol. 7, 2019):
        (p + t^2 / 2m +- sqrt(p (1 - p) t^2 / m + t^4 / 4m^2)) / (1 + t^2 / m).
    Student's own interval clipped to [0, 1] is too short near 0 and 1, and has no width at all after a clean sweep:
    with 24 prompts and a win rate of 0.95 it holds the truth 87 times in 100, this one 95 times.

    Args:
        win_rates_by_prompt: for each prompt its comparisons, P(win) in [0, 1]; their number may differ.
        confidence: in (0, 1).

    Returns:
        The mean over prompts and its interval, within [0, 1].

    Raises:
        ValueError: there is no prompt, a prompt has no comparison, a win rate is outside [0, 1], or the confidence is
            outside (0, 1).
    """
    rates, counts = _joined(win_rates_by_prompt, confidence)
    if rates.min() < 0 or rates.max() > 1:
        raise ValueError(f"a win rate must lie in [0, 1], got {rates.min():.6g} to {rates.max():.6g}")
    means = np.bincount(np.repeat(np.arange(len(counts)), counts), weights=rates) / counts
    p, n = float(means.mean()), len(means)
    if n == 1:
        return Interval(estimate=p, low=0.0, high=1.0, confidence=confidence)
    variance = p * (1 - p)
    # A clean sweep has no standard error to tell m from; there m is the number of prompts.
    effective_prompts_inverse = float(means.var(ddof=1)) / n / variance if variance > 0 else 1 / n
    k = float(stdtrit(n - 1, (1 + confidence) / 2)) ** 2 * effective_prompts_inverse
    center, half_width = (p + k / 2) / (1 + k), math.sqrt(variance * k + k * k / 4) / (1 + k)
    low, high = max(center - half_width, 0.0), min(center + half_width, 1.0)
    return Interval(estimate=p, low=low, high=high, confidence=confidence)


def bootstrap_interval(
    values_by_cluster: Sequence[ArrayLike],
    statistic: Statistic,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over whole prompts (Efron and Tibshirani 1993, chapter 13), for any statistic.

    Slightly too short for few prompts (about 93 % instead of 95 % at 24): prefer `mean_interval` for plain means.

    Args:
        values_by_cluster: for each prompt its values; their number may differ.
        statistic: maps all values, one after the other, to a number, such as `np.median`.
        confidence: in (0, 1).
        num_resamples: how many times as many prompts are drawn with replacement.
        seed: the same seed gives the same interval.

    Returns:
        The statistic of the data and the interval of its resamples.

    Raises:
        ValueError: there is no prompt, a prompt has no value or one that is not finite, the confidence is outside
            (0, 1), or `num_resamples` is not positive.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be positive, got {num_resamples}")
    values, counts = _joined(values_by_cluster, confidence)
    starts = np.cumsum(counts) - counts
    resampled = []
    for drawn in np.random.default_rng(seed).integers(len(counts), size=(num_resamples, len(counts))):
        sizes = counts[drawn]
        # Position k of the resample is position k - (where its cluster begins there) of that cluster.
        shifts = np.repeat(starts[drawn] - (np.cumsum(sizes) - sizes), sizes)
        resampled.append(float(statistic(values[shifts + np.arange(len(shifts))])))
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate=float(statistic(values)), low=float(low), high=float(high), confidence=confidence)


def _joined(values_by_cluster: Sequence[ArrayLike], confidence: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns all values, one cluster after the other, and how many each cluster has."""
    clusters = [np.asarray(values, dtype=np.float64).reshape(-1) for values in values_by_cluster]
    counts = np.array([len(cluster) for cluster in clusters], dtype=np.int64)
    if len(counts) == 0 or counts.min() == 0:
        empty = f"prompt number {counts.argmin()} has none" if len(counts) else "there is no prompt"
        raise ValueError(f"an interval needs at least one value of each prompt; {empty}")
    return _checked(np.concatenate(clusters), confidence), counts


def _checked(values: ArrayLike, confidence: float) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if numbers.ndim != 1 or len(numbers) == 0:
        # Flattening [prompts, comparisons] here would count comparisons as prompts.
        raise ValueError(f"an interval needs a list of at least one number, one a prompt; got shape {numbers.shape}")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(
            f"an interval needs finite values, got {numbers[bad[0]]} at position {bad[0]}; leave out prompts that were "
            "not judged"
        )
    return numbers
