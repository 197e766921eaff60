"""Self-Play Preference Optimization as policy gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sppo_lightning.objectives import checks, parts
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

    def __init__(self, baseline: Literal["half", "leave_one_out"] = "half") -> None:
        self.leave_one_out = checks.one_of("baseline", baseline, ("half", "leave_one_out")) == "leave_one_out"

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -(P - baseline) log pi, the bracket without gradient, [R]."""
        baseline_R = _mean_of_others(inputs) if self.leave_one_out else 0.5
        return parts.policy_gradient_rows(inputs, inputs.win_rate_R - baseline_R)


def _mean_of_others(inputs: ObjectiveInputs) -> Tensor:
    """[R] the mean win rate of the prompt's other rows of weight above 0; 1/2 where there are none."""
    win_rate_R = parts.masked(inputs.win_rate_R, inputs.weight_R)
    live_R = (inputs.weight_R != 0).to(win_rate_R.dtype)
    prompts, prompt_R = inputs.prompt_R.unique(return_inverse=True)
    total_B, count_B = (win_rate_R.new_zeros(len(prompts)).index_add(0, prompt_R, x) for x in (win_rate_R, live_R))
    others_R = count_B[prompt_R] - live_R
    mean_R = (total_B[prompt_R] - win_rate_R) / others_R
    return torch.where(others_R > 0, mean_R, torch.full_like(mean_R, 0.5))
