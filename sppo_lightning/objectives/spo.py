"""Self-Play Preference Optimization as policy gradient."""

from __future__ import annotations

from typing import Literal

from sppo_lightning.objectives import checks, groups, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class SPO(Objective):
    """SPO, arXiv 2401.04056, on language: REINFORCE with the win rate against the policy as the reward.

    The mean win rate of a policy against itself is exactly 1/2, so 1/2 is a baseline without variance. Responses are
    the policy's own, at temperature 1 and with all K of a prompt kept, and used once.

    Args:
        baseline: "half", or "leave_one_out" for the mean win rate of the prompt's other rows (RLOO). Where a prompt's
            win rates come from comparing its K rows with each other, the second is the first times K/(K-1). A row alone
            in its prompt falls back to 1/2.

    Raises:
        ConfigError: `baseline` is unknown.
    """

    needs = ()

    single_step = True
    every_response = True

    def __init__(self, baseline: Literal["half", "leave_one_out"] = "half") -> None:
        self.leave_one_out = checks.one_of("baseline", baseline, ("half", "leave_one_out")) == "leave_one_out"

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -(P - baseline) log pi, the bracket without gradient, [R]."""
        baseline_R = groups.mean_of_others(inputs.win_rate_R, inputs, alone=0.5) if self.leave_one_out else 0.5
        return parts.policy_gradient_rows(inputs, inputs.win_rate_R - baseline_R)
