"""Batches for the objectives: the golden one of the reference implementations, and random ones."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from sppo_lightning.types import ObjectiveInputs

# Three prompts, two responses each: the chosen ones are rows 0-2, the rejected ones rows 3-5. The golden losses in the
# tests were produced by running the methods' published code on exactly these numbers.
GOLDEN_POLICY = [-35.2, -80.1, -12.7, -41.0, -77.3, -30.4]
GOLDEN_FROZEN = {
    "anchor": [-36.0, -79.0, -13.0, -40.0, -78.0, -29.0],
    "previous": [-35.5, -80.0, -12.9, -40.7, -77.5, -30.0],
    "history/1": [-35.8, -79.4, -13.1, -40.2, -77.9, -29.3],
}

InputsFactory = Callable[..., ObjectiveInputs]


@pytest.fixture
def golden() -> InputsFactory:
    """Builds the golden batch in float32; keyword arguments replace fields."""

    def build(**changes: Any) -> ObjectiveInputs:
        inputs = ObjectiveInputs(
            policy_logps_R=torch.tensor(GOLDEN_POLICY),
            frozen_logps={name: torch.tensor(logps) for name, logps in GOLDEN_FROZEN.items()},
            num_tokens_R=torch.tensor([20, 41, 9, 25, 38, 17]),
            win_rate_R=torch.tensor([0.84, 0.61, 0.72, 0.22, 0.40, 0.31]),
            prompt_R=torch.tensor([0, 1, 2, 0, 1, 2]),
            weight_R=torch.ones(6),
            pairs_M2=torch.tensor([[0, 3], [1, 4], [2, 5]]),
            pair_prob_M=torch.tensor([0.93, 0.70, 0.88]),
            weight_M=torch.ones(3),
        )
        return replace(inputs, **changes)

    return build


@pytest.fixture
def random_inputs() -> InputsFactory:
    """Builds random batches of 4 prompts with 3, 2, 4 and 1 rows and 4 pairs, two of which share a row."""

    def build(needs: Iterable[str], seed: int = 0, dtype: torch.dtype = torch.float64) -> ObjectiveInputs:
        generator = torch.Generator().manual_seed(seed)

        def uniform(size: int, low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(size, generator=generator, dtype=dtype)

        base_R = uniform(10, -60.0, -5.0)
        return ObjectiveInputs(
            policy_logps_R=(base_R + uniform(10, -1.0, 1.0)).requires_grad_(),
            frozen_logps={name: base_R + uniform(10, -1.0, 1.0) for name in needs},
            num_tokens_R=torch.randint(1, 50, (10,), generator=generator),
            win_rate_R=uniform(10, 0.0, 1.0),
            prompt_R=torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3]),
            weight_R=uniform(10, 0.5, 1.5),
            pairs_M2=torch.tensor([[0, 1], [0, 2], [4, 3], [5, 8]]),
            pair_prob_M=uniform(4, 0.5, 1.0),
            weight_M=uniform(4, 0.5, 1.5),
            log_z_R=uniform(10, 0.0, 1.0),
            score_R=uniform(10, -3.0, 3.0),
            kl_logps_R=uniform(5, 0.0, 2.0),
        )

    return build
