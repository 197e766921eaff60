"""REINFORCE leave-one-out on a scalar reward."""

from __future__ import annotations

from sppo_lightning.objectives import checks, groups, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class RLOO(Objective):
    """RLOO, arXiv 2402.14740: REINFORCE on whole responses, each one's baseline the mean reward of the prompt's others.

    The reward is the oracle's score r(y), less tau log(pi/pi_ref). The leave-one-out advantage of r is what arrives as
    the score: the mean of r(y) - r(y') over all the prompt's other responses y', also those that are not trained on.
    Responses are the policy's own, at temperature 1 and with all K of a prompt kept, and used once: a batch is a round.

    Args:
        tau: strength of the KL to the fixed pi_ref, in units of reward per nat (TRL's default); 0: none.

    Raises:
        ConfigError: `tau` is negative; or, in use, the oracle gives no scores.
    """

    reads_scores = True

    single_step = True
    every_response = True

    def __init__(self, tau: float = 0.05) -> None:
        self.tau = checks.non_negative("tau", tau)
        self.needs = ("anchor",) if self.tau else ()

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -(R - mean of the others' R) log pi with R = r - tau log pi/pi_ref, the bracket without gradient."""
        advantage_R = parts.scores(inputs, "RLOO")
        if self.tau:
            rho_R = parts.log_ratio(inputs, {"anchor": 1.0}).detach()
            advantage_R = advantage_R - self.tau * (rho_R - groups.mean_of_others(rho_R, inputs, alone=0.0))
        return parts.policy_gradient_rows(inputs, advantage_R)
