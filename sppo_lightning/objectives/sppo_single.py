"""SPPO on the one comparison of a pair."""

from __future__ import annotations

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class SPPOSingle(Objective):
    """SPPO with the pair's own verdict in place of the win rates (`sppo_single` of the official SPPO code).

    The target of the chosen response is eta (P(chosen beats rejected) - 1/2), that of the rejected one its negative.

    Args:
        eta: the step, in nats per unit of win rate; 1000 in the official scripts (their `beta` 0.001 is 1/eta).

    Raises:
        ConfigError: `eta` is not above 0.
    """

    needs = ("previous",)

    reads_pair_probs = True

    def __init__(self, eta: float = 1000.0) -> None:
        self.eta = checks.positive("eta", eta)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns 1/2 (rho_w - eta (P - 1/2))^2 + 1/2 (rho_l + eta (P - 1/2))^2, [M] nats^2."""
        rho_R = parts.log_ratio(inputs, {"previous": 1.0})
        target_M = self.eta * (inputs.pair_prob_M - 0.5)
        return parts.squared_both(inputs, rho_R, target_M, self.eta, row_weight=0.5)
