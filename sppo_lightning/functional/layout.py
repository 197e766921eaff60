"""How a model takes rows: packed or padded, with a fused head or its own. Found out by trying, once for each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sppo_lightning.functional.forward import PADDED, Layout, token_logps_in
from sppo_lightning.functional.fused_head import check_head, sum_rows
from sppo_lightning.functional.packed_attention import check_layers, enable_packed_attention
from sppo_lightning.functional.precision import compute_dtype
from sppo_lightning.functional.rows import TokenRows

_LAYOUTS: WeakKeyDictionary[nn.Module, Layout] = WeakKeyDictionary()

# Two responses to one prompt, and another prompt: what a wrong mask or wrong positions would show in.
_TRIAL = TokenRows(
    prompt_ids=[[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [6, 7]],
    response_ids=[[8, 9, 1, 3, 2, 5], [3, 3, 8, 6, 9, 7, 4, 1], [5, 9, 2]],
)
# Nats by which a response may differ: rounding. With 16-bit products that is much, so a trial shows less there.
_TOLERANCE, _HALF_TOLERANCE = 2e-4, 0.25


def layout_of(model: nn.Module) -> Layout:
    """The fastest layout that gives a model's own log-probabilities.

    The first time it is asked for a model, a few tokens go through it in each layout, in eval mode and without
    autograd. What differs from the padded result, or fails, is not used.
    """
    if model not in _LAYOUTS:
        _LAYOUTS[model] = _try_layouts(model)
    return _LAYOUTS[model]


@contextmanager
def use_layout(model: nn.Module, layout: Layout) -> Iterator[None]:
    """Takes a layout without trying it, for comparisons."""
    before = layout_of(model)
    _LAYOUTS[model] = layout
    try:
        yield
    finally:
        _LAYOUTS[model] = before


@torch.no_grad()
def _try_layouts(model: Any) -> Layout:
    reasons = []
    # Before anything is compared: it also decides whether attention is soft-capped.
    try:
        enable_packed_attention(model)
    except AttributeError:
        return Layout(packed=False, fused=False, reason="not a transformers model")
    except ValueError as error:
        reasons.append(f"not packed: {_words(error)}")
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        reference_R = _trial(model, PADDED)

        def differs(layout: Layout, check: Callable[[Any], None]) -> str | None:
            try:
                check(model)
                gap = float((_trial(model, layout) - reference_R).abs().max())
            except Exception as error:
                return _words(error)
            return None if gap <= _tolerance(model) else f"a response's log-probability differs by {gap:.2g} nats"

        if not reasons and (why := differs(Layout(packed=True, fused=False), check_layers)):
            reasons.append(f"not packed: {why}")
        packed = not reasons
        if why := differs(Layout(packed=False, fused=True), check_head):
            reasons.append(f"no fused head: {why}")
        return Layout(packed=packed, fused=why is None, reason="; ".join(reasons))
    finally:
        for module, was in training.items():
            module.training = was


def _trial(model: Any, layout: Layout) -> Tensor:
    size = model.config.get_text_config().vocab_size
    prompts, responses = (
        [[token % size for token in tokens] for tokens in part] for part in (_TRIAL.prompt_ids, _TRIAL.response_ids)
    )
    rows = TokenRows(prompt_ids=prompts, response_ids=responses)
    return sum_rows(token_logps_in(layout, model, rows), list(map(len, responses)))


def _tolerance(model: nn.Module) -> float:
    exact = next(model.parameters()).dtype in (torch.float32, torch.float64) and compute_dtype(model) is None
    return _TOLERANCE if exact else _HALF_TOLERANCE


def _words(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
