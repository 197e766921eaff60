"""Kahneman-Tversky Optimization."""

from __future__ import annotations

from typing import Literal

import torch

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class KTO(Objective):
    """KTO, arXiv 2402.01306: pushes good responses above, and bad ones below, the policy's KL to the reference.

    A response is good where its win rate is above 1/2 and bad where it is below; at 1/2 it is neither and adds nothing.
    The KL z is the mean log-ratio over prompts paired with other prompts' responses, at least 0, without gradient. It
    belongs to the batch: training passes those rows of the whole global batch, or the loss depends on how it is split.

    Args:
        beta: inverse temperature, per nat; 0.1 in TRL.
        desirable_weight: weight of good responses (lambda_D); 1.
        undesirable_weight: weight of bad responses (lambda_U); 1. With very unequal numbers the paper balances the two.
        reference: the policy the log-ratio is taken to: "previous" (pi_t) or "anchor" (the fixed pi_ref, as in the
            paper).

    Raises:
        ConfigError: `beta` is not above 0, a weight is negative, or `reference` is unknown; or, in use, the batch has
            no mismatched rows.
    """

    mismatched = True

    def __init__(
        self,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        reference: Literal["previous", "anchor"] = "anchor",
    ) -> None:
        self.beta = checks.positive("beta", beta)
        self.desirable_weight = checks.non_negative("desirable_weight", desirable_weight)
        self.undesirable_weight = checks.non_negative("undesirable_weight", undesirable_weight)
        self.anchors = {checks.one_of("reference", reference, ("previous", "anchor")): 1.0}
        self.needs = tuple(self.anchors)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns 1 - sigmoid(beta (rho - z)) for good, 1 - sigmoid(beta (z - rho)) for bad responses, [R]."""
        if inputs.kl_logps_R is None or len(inputs.kl_logps_R) == 0:
            raise ConfigError(
                "model.objective: KTO needs the log-ratios of prompts paired with other prompts' responses "
                "(kl_logps_R), and this batch has none; use KTOPair, which needs only pairs"
            )
        kl = inputs.kl_logps_R.detach().mean().clamp(min=0)
        rho_R = parts.masked(parts.log_ratio(inputs, self.anchors), inputs.weight_R)
        side_R = (parts.masked(inputs.win_rate_R, inputs.weight_R) - 0.5).sign()
        scale_R = self.desirable_weight * side_R.clamp(min=0) - self.undesirable_weight * side_R.clamp(max=0)
        loss_R = scale_R * torch.sigmoid(-self.beta * side_R * (rho_R - kl))
        metrics = {"kl": (kl.expand_as(rho_R), inputs.weight_R), "log_ratio": (rho_R.detach(), inputs.weight_R)}
        return ObjectiveOutputs(loss=loss_R, weight=inputs.weight_R, metrics=metrics)
