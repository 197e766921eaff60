"""One forward pass of a causal language model over rows, in a given layout.

The model's own forward runs, so wrappers around it see an ordinary call, and whatever it does after its head (Gemma's
soft-capping, Cohere's and Granite's scaling) is in its logits. Its head sees the response positions only: prompts and
padding are where most of the memory would go.

Do not call it on a model that `torch.compile` compiled as a whole: compiled code may ignore the hooks' removal.

Shapes: R rows, T positions, N response tokens of all rows together, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sppo_lightning.functional.fused_head import Head, RowsLoss, fused_loss, fused_token_logps, head_of, sum_rows
from sppo_lightning.functional.packs import pack_rows, pad_rows
from sppo_lightning.functional.rows import TokenRows

# Rows of logits turned into float32 log-probabilities at a time: bounds the float32 copy of half-precision logits, and
# without gradients all of the float32 memory (128 MiB at a vocabulary of 32,768).
_LOGIT_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows go through a model.

    Attributes:
        packed: without padding, each prompt once; else as a padded rectangle.
        fused: log-probabilities without logits; else from the model's own logits at the response positions.
        reason: why not both, in words; empty where both.
    """

    packed: bool
    fused: bool
    reason: str = ""

    def __str__(self) -> str:
        rows = "packed without padding, each prompt once" if self.packed else "padded"
        head = "log-probabilities without logits" if self.fused else "log-probabilities from the model's own logits"
        return f"{rows}; {head}" + (f" ({self.reason})" if self.reason else "")


PADDED = Layout(packed=False, fused=False)


def token_logps_in(layout: Layout, model: nn.Module, rows: TokenRows) -> Tensor:
    """[N] float32 nats: log pi(token | prompt and tokens before it) of every response token, row after row."""
    batch = _Batch(layout, model, rows)
    if layout.fused:
        spans = _response_lengths(rows)
        return batch.at_head(lambda hidden_NC, head: fused_token_logps(hidden_NC, head, batch.targets_N, spans))
    logits_NV = batch.logits()
    return torch.cat(
        [
            -nn.functional.cross_entropy(chunk.float(), targets, reduction="none")
            for chunk, targets in zip(logits_NV.split(_LOGIT_ROWS), batch.targets_N.split(_LOGIT_ROWS), strict=True)
        ]
    )


def loss_in(layout: Layout, model: nn.Module, rows: TokenRows, loss_of: RowsLoss) -> Tensor:
    """The summed loss of the rows, ready for its backward; see `fused_head.fused_loss` for `loss_of`."""
    if not layout.fused:
        lengths = [len(response) for response in rows.response_ids]
        return loss_of(sum_rows(token_logps_in(layout, model, rows), lengths))
    batch = _Batch(layout, model, rows)
    spans = _response_lengths(rows)
    return batch.at_head(lambda hidden_NC, head: fused_loss(hidden_NC, head, batch.targets_N, spans, loss_of)[0])


def _response_lengths(rows: TokenRows) -> list[list[int]]:
    return [[len(rows.response_ids[row]) for row in span] for span in rows.prompt_spans]


class _Batch:
    """The arguments of one call, and where its head looks."""

    def __init__(self, layout: Layout, model: Any, rows: TokenRows) -> None:
        self._model = model
        device = next(model.parameters()).device
        if layout.packed:
            packed = pack_rows(rows, device)
            self._positions_N, self.targets_N = packed.positions_N, packed.targets_N
            self._shape = torch.Size([1, len(packed.input_ids_T)])
            self._inputs = {
                "input_ids": packed.input_ids_T[None],
                "position_ids": packed.position_ids_T[None],
                # What has four dimensions, transformers hands down as it is instead of making a mask itself.
                "attention_mask": torch.zeros((1, 1, 1, 1), device=device),
                "packed_rows": packed,
            }
        else:
            # Right padding needs neither position ids nor a mask: the default positions are those of the unpadded row,
            # and under causal attention no token sees the padding behind it.
            padded = pad_rows(rows, device)
            self._positions_N, self.targets_N = padded.positions_N, padded.targets_N
            self._shape = padded.input_ids_RT.shape
            self._inputs = {"input_ids": padded.input_ids_RT}

    def logits(self) -> Tensor:
        """[N, V] the model's logits, its head at the response positions only where it can be hooked."""
        head = self._model.get_output_embeddings()
        hook = head.register_forward_pre_hook(self._narrow) if head is not None else None
        try:
            logits = self._model(**self._inputs, use_cache=False).logits.flatten(0, 1)
        finally:
            if hook is not None:
                hook.remove()
        # Rows are not all response, so the two cases cannot be confused.
        return logits if len(logits) == len(self.targets_N) else logits.index_select(0, self._positions_N)

    def at_head(self, compute: Callable[[Tensor, Head], Tensor]) -> Tensor:
        """What `compute` makes of the hidden states at the response positions, in the place of the head's product.

        In its place rather than after the model's forward, so that a sharded head is whole while it is used.
        """
        results: list[Tensor] = []

        def forward(hidden: Tensor) -> Tensor:
            (narrow,) = self._narrow(None, (hidden,)) or (None,)
            if narrow is None:
                raise RuntimeError("the head's input is not the sequence")
            results.append(compute(narrow[0], head_of(self._model)))
            return hidden.new_zeros((1, 1, 1))

        with _forward_of(self._model.get_output_embeddings(), forward):
            self._model(**self._inputs, use_cache=False)
        (result,) = results
        return result

    def _narrow(self, _head: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0]
        if hidden.shape[:2] != self._shape:
            return None
        return (hidden.flatten(0, 1).index_select(0, self._positions_N.to(hidden.device)).unsqueeze(0), *args[1:])


@contextmanager
def _forward_of(module: Any, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
