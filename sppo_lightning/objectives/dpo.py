"""Direct Preference Optimization."""

from __future__ import annotations

from typing import Literal

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class DPO(Objective):
    """DPO, arXiv 2305.18290, eq. 7: classifies the pair by the margin of its log-ratios.

    Iterative DPO takes the round's own start policy pi_t as the reference (the default, as in Online-RLHF), the
    original the fixed pi_ref.

    Args:
        beta: inverse temperature, per nat; 0.1 in the paper.
        reference: the policy the log-ratio is taken to: "previous" (pi_t) or "anchor" (the fixed pi_ref).
        label_smoothing: probability that a label is the wrong way round, below 1/2 (conservative DPO).

    Raises:
        ConfigError: `beta` is not above 0, `label_smoothing` is outside [0, 1/2), or `reference` is unknown.
    """

    def __init__(
        self,
        beta: float = 0.1,
        reference: Literal["previous", "anchor"] = "previous",
        label_smoothing: float = 0.0,
    ) -> None:
        self.beta = checks.positive("beta", beta)
        self.anchors = {checks.one_of("reference", reference, ("previous", "anchor")): 1.0}
        self.label_smoothing = checks.share("label_smoothing", label_smoothing, below=0.5)
        self.needs = tuple(self.anchors)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -(1 - s) log sigmoid(beta h) - s log sigmoid(-beta h), [M]."""
        margin_M = parts.margin(parts.log_ratio(inputs, self.anchors), inputs)
        return parts.logistic_pairs(inputs, margin_M, self.beta * margin_M, self.label_smoothing)
