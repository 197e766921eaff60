"""Direct Nash Optimization."""

from __future__ import annotations

import torch

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class DNO(Objective):
    """DNO, arXiv 2404.03715, Algorithm 1: cross-entropy of the pair's margin with a soft label from the win rates.

    With d = P(chosen beats pi_t) - P(rejected beats pi_t) the minimiser is h = eta d, the multiplicative-weights step.
    The paper's eta multiplies the log-ratio and is 1/eta here. Its practical variant, DNO-Prct, is DPO with
    `reference: previous` on pairs of a large margin.

    Args:
        eta: the step, in nats per unit of win rate. 10, as DPO's beta 0.1; the paper publishes no value for the soft
            form.

    Raises:
        ConfigError: `eta` is not above 0.
    """

    needs = ("previous",)

    def __init__(self, eta: float = 10.0) -> None:
        self.eta = checks.positive("eta", eta)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -sigmoid(d) log sigmoid(h/eta) - sigmoid(-d) log sigmoid(-h/eta), [M]."""
        margin_M = parts.margin(parts.log_ratio(inputs, {"previous": 1.0}), inputs)
        gap_M = parts.margin(inputs.win_rate_R, inputs)
        return parts.logistic_pairs(inputs, margin_M, margin_M / self.eta, torch.sigmoid(-gap_M))
