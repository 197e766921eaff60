"""Log-probabilities of responses under a causal language model: the padded reference implementation.

Shapes: R rows (one row = one prompt with one response), T positions of the padded rectangle, N response tokens of all
rows together, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Rows of logits turned into float32 log-probabilities at a time: bounds the float32 copy of half-precision logits, and
# without gradients all of the float32 memory (128 MiB at a vocabulary of 32,768).
_LOGIT_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class PaddedRows:
    """R rows as one right-padded rectangle, and where in it the response tokens are predicted.

    Attributes:
        input_ids_RT: int64, prompt then response then padding.
        positions_N: int64, index into the flattened [R * T] rectangle of the position that predicts each response
            token, which is the position before it.
        targets_N: int64, the response tokens, row after row.
    """

    input_ids_RT: Tensor
    positions_N: Tensor
    targets_N: Tensor

    def to(self, device: torch.device) -> PaddedRows:
        """The same rows on another device."""
        return PaddedRows(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """R prompts with one response each, as token ids.

    Example:
        `TokenRows(prompt_ids=[[1, 5, 9], [1, 7]], response_ids=[[4, 2], [8, 8, 2]])`

    Attributes:
        prompt_ids: [R][T] at least one token each: the first response token needs a position that predicts it.
        response_ids: [R][T] as sampled, with the one terminator where there is one. May be empty.

    Raises:
        ValueError: the two lists differ in length, there is no row, or a prompt is empty.
    """

    prompt_ids: Sequence[Sequence[int]]
    response_ids: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        if len(self.prompt_ids) != len(self.response_ids) or len(self.prompt_ids) == 0:
            raise ValueError(
                f"TokenRows: {len(self.prompt_ids)} prompts and {len(self.response_ids)} responses; a row is one of "
                f"each, and there must be a row"
            )
        for row, prompt in enumerate(self.prompt_ids):
            if len(prompt) == 0:
                raise ValueError(
                    f"TokenRows: the prompt of row {row} has no tokens, so nothing predicts its first response token; "
                    f"does the tokenizer's chat template begin with a start token?"
                )

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def lengths(self) -> list[int]:
        """[R] tokens of prompt and response together."""
        return [
            len(prompt) + len(response) for prompt, response in zip(self.prompt_ids, self.response_ids, strict=True)
        ]

    def to_padded(self, pad_id: int) -> PaddedRows:
        """Lays the rows out as a right-padded rectangle on the CPU.

        Args:
            pad_id: what stands in the padding: any id of the vocabulary, also one that responses contain.
        """
        T = max(self.lengths)
        input_ids_RT = torch.full((len(self), T), pad_id, dtype=torch.long)
        positions: list[Tensor] = []
        for row, (prompt, response) in enumerate(zip(self.prompt_ids, self.response_ids, strict=True)):
            tokens = torch.tensor([*prompt, *response], dtype=torch.long)
            input_ids_RT[row, : len(tokens)] = tokens
            first = row * T + len(prompt) - 1
            positions.append(torch.arange(first, first + len(response)))
        return PaddedRows(
            input_ids_RT=input_ids_RT,
            positions_N=torch.cat(positions),
            targets_N=torch.tensor([token for response in self.response_ids for token in response], dtype=torch.long),
        )


def response_logps(model: nn.Module, batch: TokenRows) -> Tensor:
    """Sums log pi(response | prompt) over the tokens of each response, the terminator included; see `token_logps`.

    Args:
        model: a transformers causal language model.
        batch: R rows.

    Returns:
        [R] float32 nats on the model's device, with gradient where autograd is on. An empty response gives 0.
    """
    # Row by row rather than over the padded rectangle: the order of the additions then does not depend on the padding,
    # and no atomic additions are involved.
    return torch.stack([logps.sum() for logps in token_logps(model, batch)])


def token_logps(model: nn.Module, batch: TokenRows) -> tuple[Tensor, ...]:
    """Log pi(token | prompt and tokens before it) of every response token, the terminator included.

    The model's own forward runs, so whatever it does after its head (Gemma's soft-capping, Cohere's and Granite's
    scaling) is in the result, and wrappers around the model see an ordinary call. A hook on the head keeps prompt and
    padding positions out of it, which is where most of the memory would go; a model that computes logits without
    calling its output embeddings is right too, only slower.

    Right padding needs neither position ids nor an attention mask: the default positions 0, 1, 2, ... are those of the
    unpadded row, and under causal attention no token sees the padding behind it. Without a mask the model may take its
    fastest causal kernel.

    Do not call it on a model that `torch.compile` compiled as a whole: compiled code may ignore the hook's removal.

    Args:
        model: a transformers causal language model on one device, any dtype, in train or eval mode.
        batch: R rows. They run as one rectangle; bound it with `split_rows`.

    Returns:
        [R][T] float32 nats on the model's device, with gradient where autograd is on.
    """
    device = next(model.parameters()).device
    padded = batch.to_padded(pad_id=0).to(device)
    with _head_at(model, padded.positions_N, padded.input_ids_RT.shape):
        logits = model(input_ids=padded.input_ids_RT, use_cache=False).logits.flatten(0, 1)
    # Every row has a prompt position that predicts nothing we want, so R * T > N: the two cases cannot be confused.
    logits_NV = logits if len(logits) == len(padded.targets_N) else logits.index_select(0, padded.positions_N)
    logps_N = torch.cat(
        [
            -nn.functional.cross_entropy(chunk.float(), targets, reduction="none")
            for chunk, targets in zip(logits_NV.split(_LOGIT_ROWS), padded.targets_N.split(_LOGIT_ROWS), strict=True)
        ]
    )
    return logps_N.split([len(response) for response in batch.response_ids])


@contextmanager
def _head_at(model: Any, positions_N: Tensor, shape_RT: torch.Size) -> Iterator[None]:
    """Makes the model's head see the hidden states at `positions_N` only, as one row of N."""

    def narrow(_head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0]
        if hidden.shape[:2] != shape_RT:
            return None
        return (hidden.flatten(0, 1).index_select(0, positions_N.to(hidden.device)).unsqueeze(0), *args[1:])

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(narrow) if head is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def split_rows(lengths: Sequence[int], max_padded_tokens: int) -> list[list[int]]:
    """Splits rows into batches whose padded rectangle stays within a token budget.

    Longest rows first, so that a batch holds rows of similar length and a budget too big for the memory fails at once.
    The same lengths always give the same batches.

    Args:
        lengths: [R] tokens of each row.
        max_padded_tokens: rows of a batch times its longest row. A single row longer than this is a batch of its own.

    Returns:
        Indices into `lengths`; every row is in exactly one batch.

    Example:
        `split_rows([2, 9, 3, 8], max_padded_tokens=18)` is `[[1, 3], [2, 0]]`.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_padded_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
