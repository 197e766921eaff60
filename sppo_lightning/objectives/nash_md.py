"""Nash Mirror Descent by policy gradient."""

from __future__ import annotations

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class NashMD(Objective):
    """Nash-MD-PG, arXiv 2312.00886: policy gradient on the win rate against a mixture, with a KL to pi_ref.

    The win rates are against the geometric mixture of pi_t and pi_ref, which is the opponent's business; against pi_t
    itself this is SPO with a KL. Responses are the policy's own and used once.

    Args:
        tau: strength of the KL to the fixed pi_ref, in units of win rate per nat (TRL's beta); 0.1 by TRL's default.

    Raises:
        ConfigError: `tau` is not above 0.
    """

    needs = ("anchor",)

    opponents = ("AnchorMixture",)

    single_step = True
    every_response = True

    def __init__(self, tau: float = 0.1) -> None:
        self.tau = checks.positive("tau", tau)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -(P - 1/2 - tau log pi/pi_ref) log pi, the bracket without gradient, [R]."""
        rho_R = parts.log_ratio(inputs, {"anchor": 1.0})
        return parts.policy_gradient_rows(inputs, inputs.win_rate_R - 0.5 - self.tau * rho_R)
