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
        mismatched: the objective reads `kl_logps_R`, the log-ratios of prompts with other prompts' responses.
        log_z_draws: further responses a prompt that `log_z` is estimated from; 0: from the candidates themselves.
        reads_pair_probs: the objective reads `pair_prob_M`, which is known only where candidates judge each other.
        reads_scores: the objective reads `score_R`, which not every oracle gives.
        single_step: the loss is made for one optimiser step a batch; minimised further, it becomes something else.
        every_response: the loss is a mean over all of the policy's responses; a pairing that picks some biases it.
        schedules: names of the schedules it belongs to; empty: any that trains the policies it needs.
        opponents: names of the opponents it belongs to; empty: any.
    """

    needs: tuple[str, ...] = ("previous",)
    mismatched: bool = False
    log_z_draws: int = 0
    reads_pair_probs: bool = False
    reads_scores: bool = False
    single_step: bool = False
    every_response: bool = False
    schedules: tuple[str, ...] = ()
    opponents: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns the loss of each row or of each pair, unreduced, with its weights."""

    def log_z(self, win_rate_K: Tensor) -> float | None:
        """The log partition estimate of one prompt from the win rates of all its candidates or draws, or None.

        What is returned arrives as `ObjectiveInputs.log_z_R`: the training rows of a prompt may be fewer than its K
        candidates, so this is the only place that sees all of them.
        """
        return None
