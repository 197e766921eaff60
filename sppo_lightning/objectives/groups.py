"""Statistics of a prompt's rows among themselves: the baselines of policy gradients.

Rows of weight 0 are not counted, and what stands in them is not read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sppo_lightning.objectives import parts
from sppo_lightning.types import ObjectiveInputs


def mean_of_others(values_R: Tensor, inputs: ObjectiveInputs, alone: float) -> Tensor:
    """The leave-one-out baseline (RLOO).

    Args:
        values_R: a value of each row.
        inputs: the batch.
        alone: what a row gets that is alone in its prompt.

    Returns:
        [R] the mean over the prompt's other rows.
    """
    live_R = _live(values_R, inputs)
    others_R = _total(live_R, inputs) - live_R
    mean_R = (_total(values_R, inputs) - parts.masked(values_R, inputs.weight_R)) / others_R
    return torch.where(others_R > 0, mean_R, torch.full_like(mean_R, alone))


def centred(values_R: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """[R] each row's value minus the mean of its prompt's rows; 0 at rows of weight 0."""
    count_R = _total(_live(values_R, inputs), inputs).clamp(min=1)
    return parts.masked(values_R - _total(values_R, inputs) / count_R, inputs.weight_R)


def deviation(values_R: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """[R] the standard deviation of the prompt's rows, with n - 1 degrees of freedom; 0 where a row is alone."""
    count_R = _total(_live(values_R, inputs), inputs)
    return (_total(centred(values_R, inputs).square(), inputs) / (count_R - 1).clamp(min=1)).sqrt()


def _live(values_R: Tensor, inputs: ObjectiveInputs) -> Tensor:
    return (inputs.weight_R != 0).to(values_R.dtype)


def _total(values_R: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """[R] the sum over the prompt's rows, at each of them."""
    prompts, prompt_R = inputs.prompt_R.unique(return_inverse=True)
    values_R = parts.masked(values_R, inputs.weight_R)
    return values_R.new_zeros(len(prompts)).index_add(0, prompt_R, values_R)[prompt_R]
