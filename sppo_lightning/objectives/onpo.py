"""Optimistic Nash Policy Optimization."""

from __future__ import annotations

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class ONPO(Objective):
    """ONPO, arXiv 2502.16852, Algorithm 1: both fits of an optimistic mirror-descent step regress onto eta/2.

    A round fits twice on the same data of pi_t: the auxiliary policy from its last value pi'_t, then the next policy
    pi_{t+1} from the auxiliary's new value pi'_{t+1}. Both are this loss; which policy is in training, and which value
    of the auxiliary is frozen, is the schedule's business. No code of the authors is public.

    Args:
        eta: the step, in nats per unit of win rate; 1/8, the largest with the paper's guarantee for the last iterate.

    Raises:
        ConfigError: `eta` is not above 0.
    """

    needs = ("auxiliary",)

    def __init__(self, eta: float = 0.125) -> None:
        self.eta = checks.positive("eta", eta)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (h - eta/2)^2, [M] nats^2."""
        return parts.half_eta_pairs(inputs, parts.log_ratio(inputs, {"auxiliary": 1.0}), self.eta)
