"""Extragradient Preference Optimization."""

from __future__ import annotations

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class EGPO(Objective):
    """EGPO, arXiv 2503.08942: the mirror-descent step of the KL-regularised game, taken against the half-step's policy.

    Both halves are this loss; the schedule restores weights and optimiser between them. The win rates are against
    responses of the policy, first pi_t, then pi_{t+1/2}, and not among the candidates, which may come from a wider
    sampler (temperature 2, top-k 10 in the official code).

    The paper takes one gradient step of the squared distance to the best reply pi_ref exp(P/tau): for a table of logits
    and a uniform sampler that is the mirror-descent step. A network's gradient is another one, so with `eta` the step
    itself, pi_ref^(eta tau) pi_t^(1 - eta tau) exp(eta P), is what is regressed onto, by as many steps as it takes.

    Args:
        tau: strength of the KL to the fixed pi_ref, in units of win rate per nat (the paper's beta); 0.1 in the
            official code.
        eta: the step, in nats per unit of win rate. Not set: the paper's single gradient step.
        per_token: divides the log-ratios by the response's number of tokens, as the official language-model code does.

    Raises:
        ConfigError: `tau` or `eta` is not above 0, or `eta` times `tau` is above 1.
    """

    schedules = ("HalfStep",)

    def __init__(self, tau: float = 0.1, eta: float | None = None, per_token: bool = False) -> None:
        checks.positive("tau", tau)
        self.single_step = eta is None
        self.eta = 1 / tau if eta is None else checks.positive("eta", eta)
        self.anchors = parts.anchor_mix(checks.anchor_weight(self.eta, tau), {"previous": 1.0})
        self.needs = tuple(self.anchors)
        self.per_token = per_token

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (h - eta gap)^2, [M] nats^2, eta being 1/tau for a single gradient step."""
        margin_M = parts.margin(parts.log_ratio(inputs, self.anchors, self.per_token), inputs)
        return parts.squared_pairs(inputs, margin_M, self.eta * parts.margin(inputs.win_rate_R, inputs), self.eta)
