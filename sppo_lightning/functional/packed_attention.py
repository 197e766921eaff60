"""Attention within the rows of a pack, through transformers' own attention interface.

A pack tells a model's attention layers which tokens see each other by the keyword argument `packed_rows`, which
transformers' models hand down to them. Without it the attention is transformers' own.

Shapes: b rows, L positions of a rectangle, T positions of a pack, H heads, D size of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from sppo_lightning.functional.packs import PackedRows

NAME = "sppo_rows"


def enable_packed_attention(model: Any) -> None:
    """Lets a transformers model take packs. Everything else it computes stays what PyTorch's attention gives.

    One thing does change: Gemma-2's soft-capping, which transformers leaves out of its SDPA attention, is computed.

    Raises:
        AttributeError: not a transformers model.
        ValueError: the model does not use transformers' attention interface.
    """
    # Setting config.attn_implementation does nothing in transformers 5.
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise ValueError("its attention cannot be chosen")


def check_layers(model: Any) -> None:
    """Raises ValueError where a layer looks back in another way than at all tokens or at a window of them."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(f"it has layers of kind {', '.join(sorted(others))}")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_rows: PackedRows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each attention layer.

    Args:
        module: the layer.
        query: [1, H, T, D]; [b, H, L, D] where nothing is packed.
        key: as `query`, with the number of key-value heads.
        value: as `key`.
        attention_mask: the model's, where nothing is packed.
        packed_rows: which tokens are a row.
        **kwargs: what the layer says of itself: `scaling`, `sliding_window`, `softcap`, ...

    Returns:
        [1, T, H, D] or [b, L, H, D], and no attention weights.
    """
    if packed_rows is None:
        return _row_attention(module, query, key, value, attention_mask, **kwargs)
    _check_window(module, kwargs.get("sliding_window"))
    # The rows of a rectangle are what a right-padded batch is: causal attention, positions from 0, the same window for
    # all of them. So a model's own attention is right for them, whatever it does.
    query_T, key_T, value_T = (states[0].transpose(0, 1) for states in (query, key, value))
    outputs = []
    for rectangle in packed_rows.rectangles:
        b, L = rectangle.shape
        query_b, key_b, value_b = (
            states_T.index_select(0, rectangle.flatten()).unflatten(0, (b, L)).transpose(1, 2)
            for states_T in (query_T, key_T, value_T)
        )
        mask = _window_mask(L, kwargs.get("sliding_window"), query.device)
        output, _ = _row_attention(module, query_b, key_b, value_b, mask, **kwargs)
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs).index_select(0, packed_rows.output_T).unsqueeze(0), None


def _check_window(module: Any, window: int | None) -> None:
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    if kinds and kinds[getattr(module, "layer_idx", 0)] == "sliding_attention" and window is None:
        raise ValueError("its layers keep the size of their window to themselves")


def _window_mask(L: int, window: int | None, device: torch.device) -> Tensor | None:
    """[1, 1, L, L] True where a token may look; None where that is simply backwards."""
    if window is None or window >= L:
        return None
    distance_LL = torch.arange(L, device=device)[:, None] - torch.arange(L, device=device)
    return ((distance_LL >= 0) & (distance_LL < window))[None, None]


def _row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[b, L, H, D] PyTorch's attention; spelt out where scores are soft-capped, which it cannot do."""
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    if mask is None:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        mask = allowed.tril(scores.shape[-1] - scores.shape[-2])
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=kwargs.get("dropout", 0.0), training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
