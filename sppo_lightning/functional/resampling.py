"""Bootstrap over prompts for arrays of means, such as a whole payoff matrix: every cell sees the same prompts."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, stdtrit

from sppo_lightning.functional.games import Array


def prompt_weights(num_prompts: int, num_resamples: int, seed: int) -> Array:
    """How often each prompt is drawn in each resample.

    Args:
        num_prompts: B.
        num_resamples: rows.
        seed: the same seed gives the same resamples.

    Returns:
        [num_resamples, B] counts that add up to B.
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=num_resamples).astype(np.float64)


def resampled_means(values_BX: Array, weights_RB: Array) -> Array:
    """The mean over prompts of each entry in each resample; a prompt without a value (NaN) is left out of that entry.

    Args:
        values_BX: [B, ...] one value a prompt and entry.
        weights_RB: [R, B] see `prompt_weights`.

    Returns:
        [R, ...]; NaN where a resample has no value of an entry.
    """
    present = np.isfinite(values_BX)
    total = np.tensordot(weights_RB, np.where(present, values_BX, 0.0), axes=1)
    count = np.tensordot(weights_RB, present.astype(np.float64), axes=1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def expanded_percentiles(resamples_RX: Array, num_prompts: int, confidence: float = 0.95) -> tuple[Array, Array]:
    """Ends of the expanded percentile interval (Hesterberg, The American Statistician 69, 2015, section 5.2).

    The plain percentile interval is too short for few prompts: it lacks the factor sqrt(n / (n - 1)) and Student's t.
    Taking its ends at Phi(-+ sqrt(n / (n - 1)) t) of the resamples puts both back.

    Args:
        resamples_RX: [R, ...] the statistic in each resample; NaN is left out.
        num_prompts: n, at least 2.
        confidence: in (0, 1).

    Returns:
        Lower and upper ends, each [...].
    """
    t = float(stdtrit(num_prompts - 1, (1 + confidence) / 2))
    tail = float(ndtr(-math.sqrt(num_prompts / (num_prompts - 1)) * t))
    low, high = np.nanquantile(resamples_RX, [tail, 1 - tail], axis=0)
    return low, high
