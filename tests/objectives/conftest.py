"""Batches for the objectives: the golden one of the reference implementations, and random ones."""

from collections.abc import Callable

import pytest
import torch

from sppo_lightning.types import ObjectiveInputs

# Three prompts, two responses each: the chosen ones are rows 0-2, the rejected ones rows 3-5. The expected losses in
# the tests were produced by running the methods' published code on exactly these numbers.
POLICY = [-35.2, -80.1, -12.7, -41.0, -77.3, -30.4]
FROZEN = {
    "anchor": [-36.0, -79.0, -13.0, -40.0, -78.0, -29.0],
    "previous": [-35.5, -80.0, -12.9, -40.7, -77.5, -30.0],
    "history/1": [-35.8, -79.4, -13.1, -40.2, -77.9, -29.3],
}
WIN_RATE = [0.84, 0.61, 0.72, 0.22, 0.40, 0.31]
PAIR_PROB = [0.93, 0.70, 0.88]
NUM_TOKENS = [20, 41, 9, 25, 38, 17]
# One policy under every name, for objectives that ask for another one.
ALL_NAMES = {**FROZEN, "auxiliary": FROZEN["previous"], "player/1": FROZEN["previous"], "player/2": FROZEN["history/1"]}


@pytest.fixture
def golden() -> Callable[..., ObjectiveInputs]:
    """Builds the golden batch in float32; keyword arguments replace fields."""

    def build(**changes: object) -> ObjectiveInputs:
        fields = {
            "policy_logps_R": torch.tensor(POLICY, requires_grad=True),
            "frozen_logps": {name: torch.tensor(logps) for name, logps in ALL_NAMES.items()},
            "num_tokens_R": torch.tensor(NUM_TOKENS),
            "win_rate_R": torch.tensor(WIN_RATE),
            "prompt_R": torch.tensor([0, 1, 2, 0, 1, 2]),
            "weight_R": torch.ones(6),
            "pairs_M2": torch.tensor([[0, 3], [1, 4], [2, 5]]),
            "pair_prob_M": torch.tensor(PAIR_PROB),
            "weight_M": torch.ones(3),
        }
        return ObjectiveInputs(**{**fields, **changes})

    return build
