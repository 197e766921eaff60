"""Mixed precision as a property of a model, so that everything that calls it computes in the same arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compute_in(model: Any, dtype: torch.dtype) -> nn.Module:
    """Runs a model's forward passes under autocast; its weights stay as they are."""
    forward = model.forward

    def autocast_forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(next(model.parameters()).device.type, dtype=dtype):
            return forward(*args, **kwargs)

    model.forward = autocast_forward
    model._compute_dtype = dtype
    return model


def compute_dtype(model: nn.Module) -> torch.dtype | None:
    """What `compute_in` was told; None: the dtype of the weights."""
    return getattr(model, "_compute_dtype", None)
