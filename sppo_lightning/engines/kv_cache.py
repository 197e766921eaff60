"""A key-value cache that several responses start from, with room for them to grow."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer


class ReservedLayer(DynamicLayer):
    """A full-attention layer that writes new tokens into reserved memory.

    The layer it replaces concatenates, so it copies the whole cache for every token: most of the time of a step with
    many rows, and twice the memory while it lasts.

    Args:
        keys: [N, heads, T, dim] of the tokens so far.
        values: [N, heads, T, dim] of the tokens so far.
        num_tokens: the most tokens the layer will hold, those so far included.
    """

    def __init__(self, keys: Tensor, values: Tensor, num_tokens: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._key_memory = _reserve(keys, num_tokens)
        self._value_memory = _reserve(values, num_tokens)
        self.keys, self.values = self._first(keys.shape[-2])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the new tokens' states and returns those of all tokens so far."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._key_memory[..., start:end, :] = key_states
        self._value_memory[..., start:end, :] = value_states
        self.keys, self.values = self._first(end)
        return self._first(end)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps these rows, each as often as it is named."""
        self._key_memory = self._key_memory.index_select(0, beam_idx)
        self._value_memory = self._value_memory.index_select(0, beam_idx)
        self.keys, self.values = self._first(self.get_seq_length())

    def _first(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        return self._key_memory[..., :num_tokens, :], self._value_memory[..., :num_tokens, :]


def _reserve(states: Tensor, num_tokens: int) -> Tensor:
    memory = states.new_empty((*states.shape[:-2], num_tokens, states.shape[-1]))
    memory[..., : states.shape[-2], :] = states
    return memory


def fan_out(cache: Cache, rows_N: Tensor, num_tokens: int) -> None:
    """Gives every response a copy of its prompt's cache, in place.

    Args:
        cache: of P prompts.
        rows_N: which prompt a response starts from.
        num_tokens: the most tokens a response and its prompt will have. Only full-attention layers reserve room for
            them; sliding-window, linear-attention and other layers have their own rules and keep them.
    """
    for index, layer in enumerate(cache.layers):
        layer.reorder_cache(cast(torch.LongTensor, rows_N))
        # Exactly this class: its subclasses keep other things, or other tokens.
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None:
            cache.layers[index] = ReservedLayer(layer.keys, layer.values, num_tokens)
