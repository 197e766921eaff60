"""A second model's say in every token, for geometric mixtures of two policies.

Shapes: P prompts, N rows (responses), A rows that still go on, T positions so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, LogitsProcessor


class MixedLogits(LogitsProcessor):
    """Replaces logits by (1 - a) log p + a log q, with q a model that reads the same tokens.

    Args:
        model: q, in eval mode.
        weight: a.
        cache: q's cache of all prompt tokens but the last, one row a response; None for a model without one.
        prompt_mask_NT: attention mask of the left-padded prompts.
        config: q's generation settings: greedy, with a cache.
    """

    def __init__(
        self, model: Any, weight: float, cache: Cache | None, prompt_mask_NT: Tensor, config: GenerationConfig
    ) -> None:
        self._model, self._weight, self._cache, self._config = model, weight, cache, config
        self._mask_AT = prompt_mask_NT

    def keep(self, places: Sequence[int]) -> None:
        """Lets go of finished rows, see `SeededSampler.keep`."""
        places_A = torch.tensor(places, device=self._mask_AT.device)
        self._mask_AT = self._mask_AT[places_A]
        if self._cache is not None:
            self._cache.reorder_cache(cast(torch.LongTensor, places_A))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Mixes.

        Args:
            input_ids: [A, T] the rows so far.
            scores: [A, V] float32 logits of p.
        """
        mask_AT = nn.functional.pad(self._mask_AT, (0, input_ids.shape[1] - self._mask_AT.shape[1]), value=1)
        # Through `generate`, so that position ids under left padding are the model's business.
        (logits_AV,) = self._model.generate(
            input_ids=input_ids,
            attention_mask=mask_AT,
            generation_config=self._config,
            max_new_tokens=1,
            return_dict_in_generate=True,
            output_logits=True,
            **({} if self._cache is None else {"past_key_values": self._cache}),
        ).logits
        mixed_AV = (1 - self._weight) * scores.log_softmax(-1) + self._weight * logits_AV.float().log_softmax(-1)
        return cast(torch.FloatTensor, mixed_AV)
