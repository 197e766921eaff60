"""Simple Preference Optimization."""

from __future__ import annotations

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class SimPO(Objective):
    """SimPO, arXiv 2405.14734, eq. 6: classifies the pair by mean log-probabilities, without a reference.

    Args:
        beta: scale of the mean log-probability, in tokens per nat; 2.0 for Llama-3-8B-Base in the official scripts,
            10 for later models.
        gamma: how far the chosen response should lead, in units of beta times nats per token. 1.0 is the official
            gamma/beta of 0.5 at beta 2.

    Raises:
        ConfigError: `beta` is not above 0, or `gamma` is negative.
    """

    needs = ()

    def __init__(self, beta: float = 2.0, gamma: float = 1.0) -> None:
        self.beta = checks.positive("beta", beta)
        self.gamma = checks.non_negative("gamma", gamma)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -log sigmoid(beta (log pi(y_w)/|y_w| - log pi(y_l)/|y_l|) - gamma), [M]."""
        margin_M = parts.margin(parts.mean_per_token(inputs.policy_logps_R, inputs), inputs)
        return parts.logistic_pairs(inputs, margin_M, self.beta * margin_M - self.gamma, rejected_share=0.0)
