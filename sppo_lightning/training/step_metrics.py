"""What one global step measures, as torchmetrics objects: exact weighted means over its packs and ranks."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MeanMetric

from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class StepMetrics:
    """Collects over the packs of one step, then gives `train/<name>` values."""

    def __init__(self) -> None:
        self._means: dict[str, MeanMetric] = {}

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
        metric = self._means.setdefault(name, MeanMetric().to(values.device))
        counted = weights > 0  # a masked row may hold anything, NaN included
        if bool(counted.any()):
            metric.update(values[counted], weights[counted])

    def compute(self) -> dict[str, float]:
        """`train/<name>` -> mean over the global step; nothing for a name that no row or pair counted towards."""
        return {
            f"train/{name}": float(metric.compute()) for name, metric in self._means.items() if metric.update_called
        }
