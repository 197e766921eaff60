"""What one global step measures, as torchmetrics objects: exact weighted means over its packs and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import SumMetric

from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class StepMetrics:
    """Collects over the packs of one step, then gives `train/<name>` values."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[SumMetric, SumMetric]] = {}  # of weight * value, of weight

    def update(self, inputs: ObjectiveInputs, outputs: ObjectiveOutputs) -> None:
        """Adds one pack."""
        self._add("loss", outputs.loss.detach(), outputs.weight)
        for name, (values, weights) in outputs.metrics.items():
            self._add(name, values, weights)
        reference = "previous" if "previous" in inputs.frozen_logps else "anchor"
        if reference in inputs.frozen_logps and len(inputs.pairs_M2):
            # The papers' main claim: winners go up, losers go down. Against pi_t, or what the objective has instead.
            log_ratio_R = (inputs.policy_logps_R - inputs.frozen_logps[reference]).detach()
            self._add("winner_log_ratio", log_ratio_R[inputs.pairs_M2[:, 0]], inputs.weight_M)
            self._add("loser_log_ratio", log_ratio_R[inputs.pairs_M2[:, 1]], inputs.weight_M)

    def _add(self, name: str, values: Tensor, weights: Tensor) -> None:
        # No look at a value here, such as torchmetrics' for NaN: on a GPU each would wait until the pack is computed.
        # (MeanMetric without that look forgets the weights, in 1.9.)
        if name not in self._sums:
            value, weight = (SumMetric(nan_strategy="disable").to(values.device) for _ in range(2))
            self._sums[name] = value, weight
        value, weight = self._sums[name]
        value.update(torch.where(weights > 0, weights * values, 0.0))  # a masked row may hold anything, NaN included
        weight.update(weights)

    def compute(self) -> dict[str, float]:
        """`train/<name>` -> mean over the global step; nothing for a name that no row or pair counted towards."""
        sums = {name: (float(value.compute()), float(weight.compute())) for name, (value, weight) in self._sums.items()}
        return {f"train/{name}": value / weight for name, (value, weight) in sums.items() if weight > 0}
