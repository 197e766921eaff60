"""A judge whose verdicts run in circles."""

from __future__ import annotations

import json

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.stressed import StressedOracle
from sppo_lightning.types import Prompt

_NUM_CAMPS = 3


class Intransitive(StressedOracle):
    """Another oracle's verdicts mixed with rock-paper-scissors: P' = (1 - strength) P + strength C.

    Each response belongs to one of three camps, by a hash of the seed, the prompt and its text: camp 0 beats 1, 1
    beats 2 and 2 beats 0 (C is 1 or 0; 1/2 within a camp). No text shows its camp, so a policy cannot learn the cycle;
    what is seen is whether a method still learns the rest. A cycle that can be learnt is `StyleGame`'s.

    Args:
        oracle: whose verdicts are mixed with the cycle.
        strength: of the cycle, in [0, 1]; 1 is nothing else.
        seed: of the camps.

    Raises:
        ConfigError: a strength outside [0, 1].
    """

    def __init__(self, oracle: PreferenceOracle, strength: float = 0.3, seed: int = 0) -> None:
        if not 0 <= strength <= 1:
            raise ConfigError(f"Intransitive: strength must lie in [0, 1], got {strength}")
        self.oracle, self.strength, self.seed = oracle, strength, seed

    def camp(self, prompt: Prompt, text: str) -> int:
        """Which of the three camps a response belongs to."""
        return derive_seed(self.seed, "camp", json.dumps([prompt.conversation, text])) % _NUM_CAMPS

    def changed(self, prob: float, prompt: Prompt, first: str, second: str) -> float:
        """The verdict with the cycle in it."""
        lead = (self.camp(prompt, second) - self.camp(prompt, first)) % _NUM_CAMPS
        cycle = {0: 0.5, 1: 1.0, 2: 0.0}[lead]
        return (1 - self.strength) * prob + self.strength * cycle
