"""One batch of responses from a transformers model: prefill each prompt once, decode, let go of finished responses.

Shapes: P prompts, N rows (responses), A rows that still go on, T positions so far (prompts are left-padded).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, LogitsProcessorList

from sppo_lightning.engines.kv_cache import fan_out
from sppo_lightning.engines.mixed_logits import MixedLogits
from sppo_lightning.engines.seeded_sampler import SeededSampler

# Tokens between two looks at which responses have ended. `generate` itself goes on with all rows until the last one
# ends; a look costs one copy of the cache.
_SEGMENT = 16


def decode(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    prompt_of_row: Sequence[int],
    sampler: SeededSampler,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    mixed_with: tuple[Any, float] | None = None,
) -> list[list[int]]:
    """Generates one response for each row.

    Nothing of the model's own generation settings takes part (its temperature, repetition penalty, minimum length,
    suppressed tokens): the responses are distributed as `sampler` says.

    Args:
        model: a transformers causal language model, in eval mode.
        prompt_ids: [P][T] the prompts.
        prompt_of_row: [N] which prompt a row answers.
        sampler: chooses the tokens of the N rows.
        max_new_tokens: the longest response.
        eos_ids: a response ends after the first of these.
        pad_id: stands where a shorter prompt or a finished response has no token.
        mixed_with: a second model q and its weight a: tokens are drawn from p^(1-a) q^a, see `MixedLogits`.

    Returns:
        [N] response tokens, cut after the first terminator.
    """
    device = next(model.parameters()).device
    input_ids_PT, mask_PT = (tensor.to(device) for tensor in _left_padded(prompt_ids, pad_id))
    rows_N = torch.tensor(prompt_of_row, device=device)
    config = GenerationConfig(do_sample=False, use_cache=True, eos_token_id=list(eos_ids) or None, pad_token_id=pad_id)
    responses: list[list[int]] = [[] for _ in prompt_of_row]
    going_on = list(range(len(responses)))
    ids_AT, mask_AT = input_ids_PT[rows_N], mask_PT[rows_N]
    processors: list[MixedLogits | SeededSampler] = [sampler]
    with ExitStack() as stack:
        caches = []
        for each in [model] if mixed_with is None else [model, mixed_with[0]]:
            stack.enter_context(_sole_generation_config(each, config))
            caches.append(_prefill(each, input_ids_PT, mask_PT))
            if caches[-1] is not None:
                fan_out(caches[-1], rows_N, num_tokens=input_ids_PT.shape[1] + max_new_tokens)
        cache = caches[0]
        if mixed_with is not None:
            processors.insert(0, MixedLogits(*mixed_with, caches[1], mask_AT, config))
        while going_on:
            length = ids_AT.shape[1]
            left = max_new_tokens - (length - input_ids_PT.shape[1])
            ids_AT = model.generate(
                input_ids=ids_AT,
                attention_mask=mask_AT,
                max_new_tokens=left if cache is None else min(left, _SEGMENT),
                logits_processor=LogitsProcessorList(processors),
                **({} if cache is None else {"past_key_values": cache}),
            )
            for row, tokens in zip(going_on, ids_AT[:, length:].tolist(), strict=True):
                responses[row] += _cut(tokens, eos_ids)
            places = [
                place
                for place, row in enumerate(going_on)
                if responses[row][-1] not in eos_ids and len(responses[row]) < max_new_tokens
            ]
            mask_AT = nn.functional.pad(mask_AT, (0, ids_AT.shape[1] - length), value=1)
            if 0 < len(places) < len(going_on):
                places_A = torch.tensor(places, device=device)
                ids_AT, mask_AT = ids_AT[places_A], mask_AT[places_A]
                for processor in processors:
                    processor.keep(places)
                assert cache is not None, "without a cache all rows end together"
                cache.reorder_cache(cast(torch.LongTensor, places_A))
            going_on = [going_on[place] for place in places]
    return responses


def _left_padded(prompt_ids: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [P, T] of prompts that all end in the last column."""
    T = max(len(prompt) for prompt in prompt_ids)
    input_ids_PT = torch.full((len(prompt_ids), T), pad_id, dtype=torch.long)
    mask_PT = torch.zeros((len(prompt_ids), T), dtype=torch.long)
    for row, prompt in enumerate(prompt_ids):
        input_ids_PT[row, T - len(prompt) :] = torch.tensor(prompt)
        mask_PT[row, T - len(prompt) :] = 1
    return input_ids_PT, mask_PT


def _prefill(model: Any, input_ids_PT: Tensor, mask_PT: Tensor) -> Cache | None:
    """The cache of all prompt tokens but the last, or None if this model cannot go on from one.

    `generate` runs the last prompt token itself, because it needs logits to go on from. The cache is taken from a
    `generate` of one token rather than from a forward of our own: position ids and the kind of cache are then the
    model's business.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # a PEFT wrapper hides the signature
    takes_cache = "past_key_values" in inspect.signature(base.prepare_inputs_for_generation).parameters
    if input_ids_PT.shape[1] < 2 or not takes_cache:
        return None
    cache = model.generate(
        input_ids=input_ids_PT[:, :-1],
        attention_mask=mask_PT[:, :-1],
        max_new_tokens=1,
        return_dict_in_generate=True,
    ).past_key_values
    # Models that keep their state in their modules return a cache that does not hold the prompt.
    holds_prompt = isinstance(cache, Cache) and cache.get_seq_length() == input_ids_PT.shape[1] - 1
    return cache if holds_prompt else None


@contextmanager
def _sole_generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Makes `config` the only generation settings in reach.

    `generate` fills whatever its `generation_config` leaves at None from `model.generation_config`, and None is the
    only way to say "no suppressed tokens". All modules, because a wrapper such as PEFT holds the model inside.
    """
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    originals = [owner.generation_config for owner in owners]
    for owner in owners:
        owner.generation_config = config
    try:
        yield
    finally:
        for owner, original in zip(owners, originals, strict=True):
            owner.generation_config = original


def _cut(tokens: list[int], eos_ids: Sequence[int]) -> list[int]:
    """The tokens up to and with the first terminator."""
    for position, token in enumerate(tokens):
        if token in eos_ids:
            return tokens[: position + 1]
    return tokens
