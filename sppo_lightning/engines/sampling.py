"""The sampling arguments every engine takes, checked where the user wrote them."""

from __future__ import annotations

import math

from sppo_lightning.errors import ConfigError
from sppo_lightning.types import SamplingConfig


def sampling_config(*, temperature: float, top_p: float, top_k: int, max_new_tokens: int) -> SamplingConfig:
    """Checks an engine's sampling arguments.

    Raises:
        ConfigError: a value outside its range; names the key under `data.engine`.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(
            f"data.engine.temperature must be a finite number of at least 0 (0 is greedy, 1 samples from the policy "
            f"itself); got {temperature}"
        )
    if not 0 < top_p <= 1:
        raise ConfigError(f"data.engine.top_p must lie in (0, 1], where 1 keeps every token; got {top_p}")
    if top_k < 0:
        raise ConfigError(f"data.engine.top_k must be at least 0, where 0 keeps every token; got {top_k}")
    if max_new_tokens < 1:
        raise ConfigError(f"data.engine.max_new_tokens must be at least 1; got {max_new_tokens}")
    return SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens)
