"""Win rates at equal length: what is left of a win rate when the judge's taste for length is taken out.

Our own small model, with one slope for the judge. It is not AlpacaEval's length-controlled win rate, whose model has
further terms and fixed inputs, and its numbers are not comparable with those.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from sppo_lightning.functional.games import Array

# Standard deviation of the normal prior of each coefficient, in nats: keeps a clean sweep finite and a slope without
# differences of length at 0.
_PRIOR_SD = 5.0


def length_controlled_win_rates(
    probs_C: Array, log_length_ratios_C: Array, pair_C: np.ndarray, weights_C: Array, num_pairs: int
) -> tuple[Array, float]:
    """Fits logit P(row beats column) = theta_pair + slope * log(row length / column length).

    Maximum a posteriori with soft labels and a wide normal prior; sigmoid(theta_pair) is the win rate between responses
    of equal length.

    Args:
        probs_C: [C] P(row beats column) of each comparison.
        log_length_ratios_C: [C] log of the row's length over the column's.
        pair_C: [C] int, which pair of players compares.
        weights_C: [C] weights; those of a pair add up to the number of its independent observations (prompts).
        num_pairs: number of pairs.

    Returns:
        [num_pairs] win rates at equal length, and the slope in nats a doubling times log 2.
    """

    def objective(parameters: Array) -> tuple[float, Array]:
        theta, slope = parameters[:-1], parameters[-1]
        logits = theta[pair_C] + slope * log_length_ratios_C
        loss = weights_C @ (np.logaddexp(0, logits) - probs_C * logits)
        residual = weights_C * (expit(logits) - probs_C)
        gradient = np.append(np.bincount(pair_C, residual, num_pairs), residual @ log_length_ratios_C)
        prior = parameters / _PRIOR_SD**2
        return float(loss + parameters @ prior / 2), gradient + prior

    fit = minimize(objective, np.zeros(num_pairs + 1), jac=True, method="BFGS")
    return expit(fit.x[:-1]), float(fit.x[-1])
