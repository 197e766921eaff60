"""A judge that is sometimes wrong."""

from __future__ import annotations

import json
import math

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.stressed import StressedOracle
from sppo_lightning.types import Prompt


class Noisy(StressedOracle):
    """Another oracle's verdicts with noise: P becomes sigmoid(logit(P) / temperature), then 1 - P for some pairs.

    Which pairs are turned round depends on the seed, the prompt and the two texts alone, so asking again gives the same
    wrong answer, as a judge at temperature 0 would. The mean over seeds is (1 - flip) P + flip (1 - P). SPO was tested
    with both kinds of noise (arXiv 2401.04056).

    Args:
        oracle: whose verdicts are made noisy.
        flip: the share of pairs whose verdict is turned round, in [0, 1].
        temperature: above 1 the verdicts come nearer to 1/2, below 1 they become harder.
        seed: of the noise.

    Raises:
        ConfigError: a share outside [0, 1], or a temperature that is not positive.
    """

    def __init__(self, oracle: PreferenceOracle, flip: float = 0.1, temperature: float = 1.0, seed: int = 0) -> None:
        if not 0 <= flip <= 1:
            raise ConfigError(f"Noisy: flip is a share of the pairs and must lie in [0, 1], got {flip}")
        if not 0 < temperature < math.inf:
            raise ConfigError(f"Noisy: temperature must be positive, got {temperature}")
        self.oracle, self.flip, self.temperature, self.seed = oracle, flip, temperature, seed

    def changed(self, prob: float, prompt: Prompt, first: str, second: str) -> float:
        """The verdict with its noise."""
        if self.temperature != 1 and 0 < prob < 1:
            # p^(1/T) against (1-p)^(1/T), in logs: a power of a small number would be 0.
            prob = 1 / (1 + math.exp((math.log1p(-prob) - math.log(prob)) / self.temperature))
        draw = derive_seed(self.seed, "noisy", json.dumps([prompt.conversation, first, second])) / 2**63
        return 1 - prob if draw < self.flip else prob
