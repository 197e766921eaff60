"""SPPO on pairs without probabilities."""

from __future__ import annotations

import torch

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class SPPOHard(Objective):
    """SPPO with the pair's verdict taken as certain (`sppo_hard` of TRL's DPOTrainer).

    The target of the chosen response is eta/2, that of the rejected one -eta/2. TRL sums the two squares; the official
    SPPO code averages them, so at P = 1 this loss is twice that of SPPOSingle.

    Args:
        eta: the step, in nats per unit of win rate; 10 by TRL's default (its `beta` 0.1 is 1/eta).

    Raises:
        ConfigError: `eta` is not above 0.
    """

    needs = ("previous",)

    def __init__(self, eta: float = 10.0) -> None:
        self.eta = checks.positive("eta", eta)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (rho_w - eta/2)^2 + (rho_l + eta/2)^2, [M] nats^2."""
        rho_R = parts.log_ratio(inputs, {"previous": 1.0})
        target_M = torch.full_like(inputs.weight_M, self.eta / 2, dtype=rho_R.dtype)
        return parts.squared_both(inputs, rho_R, target_M, self.eta, row_weight=1.0)
