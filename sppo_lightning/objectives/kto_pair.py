"""Kahneman-Tversky Optimization on pairs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class KTOPair(Objective):
    """KTO whose KL is estimated from the other half of the pairs (`kto_pair` of the official SPPO code).

    The chosen responses are measured against the mean log-ratio of the rejected ones and the other way round, each at
    least 0. The official code lets gradient flow through these means; here they are detached, as in KTO. They are means
    over the pairs of the call, so the loss depends on how a global batch is split; KTO does not have that flaw.

    Args:
        beta: inverse temperature, per nat; 0.1, as KTO.
        reference: the policy the log-ratio is taken to: "previous" (pi_t) or "anchor" (the fixed pi_ref).

    Raises:
        ConfigError: `beta` is not above 0, or `reference` is unknown.
    """

    def __init__(self, beta: float = 0.1, reference: Literal["previous", "anchor"] = "anchor") -> None:
        self.beta = checks.positive("beta", beta)
        self.anchors = {checks.one_of("reference", reference, ("previous", "anchor")): 1.0}
        self.needs = tuple(self.anchors)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns the mean of 1 - sigmoid(beta (rho_w - z_l)) and 1 - sigmoid(beta (z_w - rho_l)), [M]."""
        chosen_M, rejected_M = parts.chosen_and_rejected(parts.log_ratio(inputs, self.anchors), inputs)
        loss_chosen_M = torch.sigmoid(self.beta * (_kl(rejected_M, inputs.weight_M) - chosen_M))
        loss_rejected_M = torch.sigmoid(self.beta * (rejected_M - _kl(chosen_M, inputs.weight_M)))
        metrics = parts.margin_metrics(chosen_M - rejected_M, inputs.weight_M)
        return ObjectiveOutputs(loss=(loss_chosen_M + loss_rejected_M) / 2, weight=inputs.weight_M, metrics=metrics)


def _kl(log_ratio_M: Tensor, weight_M: Tensor) -> Tensor:
    """The weighted mean log-ratio, at least 0 and without gradient; 0 without pairs."""
    total = weight_M.sum()
    mean = (weight_M * log_ratio_M.detach()).sum() / torch.where(total > 0, total, torch.ones_like(total))
    return mean.clamp(min=0)
