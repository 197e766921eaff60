"""The socket for training objectives: log-probabilities and targets in, unreduced losses out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class Objective(ABC):
    """A loss over responses or pairs. It owns its anchor weights; it never samples, judges, or reduces.

    Subclasses take plain constructor arguments (they become configuration keys under `model.objective`), check them
    there, and set `needs`.

    Attributes:
        needs: the frozen policies whose log-probabilities must be in `ObjectiveInputs.frozen_logps`; the round computes
            exactly these. See there for the names. May be set per instance.
        waits_for: what a round does not offer yet and this objective cannot do without, in words; `fit` refuses it.
    """

    needs: tuple[str, ...] = ("previous",)
    waits_for: str | None = None

    @abstractmethod
    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns the loss of each row or of each pair, unreduced, with its weights."""

    def log_z(self, win_rate_K: Tensor) -> float | None:
        """The log partition estimate of one prompt from the win rates of all its candidates, or None if not used.

        What is returned arrives as `ObjectiveInputs.log_z_R`: the training rows of a prompt may be fewer than its K
        candidates, so this is the only place that sees all of them.
        """
        return None
