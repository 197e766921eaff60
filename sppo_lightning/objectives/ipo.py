"""Identity Preference Optimization."""

from __future__ import annotations

from typing import Literal

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class IPO(Objective):
    """IPO, arXiv 2310.12036, eq. 17: regresses the pair's margin onto 1/(2 tau).

    Args:
        tau: strength of the KL to the reference, in units of win rate per nat; the step eta is 1/tau. 0.1, as in TRL
            and in the official SPPO code.
        reference: the policy the log-ratio is taken to: "anchor" (the fixed pi_ref, as in the paper) or "previous"
            (pi_t).
        per_token: divides the log-ratios by the response's number of tokens, as TRL does; the paper and the official
            SPPO code do not.

    Raises:
        ConfigError: `tau` is not above 0, or `reference` is unknown.
    """

    def __init__(
        self, tau: float = 0.1, reference: Literal["previous", "anchor"] = "anchor", per_token: bool = False
    ) -> None:
        self.eta = 1 / checks.positive("tau", tau)
        self.anchors = {checks.one_of("reference", reference, ("previous", "anchor")): 1.0}
        self.per_token = per_token
        self.needs = tuple(self.anchors)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (h - 1/(2 tau))^2, [M] nats^2."""
        return parts.half_eta_pairs(inputs, parts.log_ratio(inputs, self.anchors, self.per_token), self.eta)
