"""Iterative Nash Policy Optimization."""

from __future__ import annotations

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class INPO(Objective):
    """INPO, arXiv 2407.00617: a mirror-descent step in the KL-regularised game, from pairs.

    The log-ratio is taken to pi_ref^(eta tau) pi_t^(1 - eta tau) and the pair's margin is regressed onto eta/2. The
    last iterate converges to the regularised Nash policy if the step is small.

    The paper's eta is the inverse of the step: eta here is 1/eta_inpo. No code of the authors is public; the values
    agree with those of MNPO's code with a history of one.

    Args:
        eta: the step, in nats per unit of win rate; 1/0.0075, as reported second-hand for the paper's runs.
        tau: strength of the KL to the fixed pi_ref, in units of win rate per nat; 0.0025, a third of eta_inpo.

    Raises:
        ConfigError: `eta` is not above 0, `tau` is negative, or `eta` times `tau` is above 1.
    """

    def __init__(self, eta: float = 1 / 0.0075, tau: float = 0.0025) -> None:
        self.eta = checks.positive("eta", eta)
        self.anchors = parts.anchor_mix(checks.anchor_weight(self.eta, tau), {"previous": 1.0})
        self.needs = tuple(self.anchors)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (h - eta/2)^2, [M] nats^2."""
        return parts.half_eta_pairs(inputs, parts.log_ratio(inputs, self.anchors), self.eta)
