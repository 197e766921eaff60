"""Rows laid out for one forward pass: padded to a rectangle, or packed without padding, each prompt once.

Shapes: R rows, T positions, N response tokens of all rows together, b rows of one rectangle, L its length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sppo_lightning.functional.rows import TokenRows

# A row joins a longer one's rectangle where little would be wasted: one call costs about as much as the attention of a
# row of this many tokens.
_SHORT_ROW = 96
_LEAST_FILL = 0.9


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


def pad_rows(rows: TokenRows, device: torch.device) -> PaddedRows:
    """Lays rows out as a right-padded rectangle; what stands in the padding does not matter."""
    T = max(rows.lengths)
    input_ids_RT = torch.zeros((len(rows), T), dtype=torch.long)
    positions: list[Tensor] = []
    for row, (prompt, response) in enumerate(zip(rows.prompt_ids, rows.response_ids, strict=True)):
        tokens = torch.tensor([*prompt, *response], dtype=torch.long)
        input_ids_RT[row, : len(tokens)] = tokens
        first = row * T + len(prompt) - 1
        positions.append(torch.arange(first, first + len(response)))
    return PaddedRows(
        input_ids_RT=input_ids_RT.to(device),
        positions_N=torch.cat(positions).to(device),
        targets_N=_targets(rows).to(device),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedRows:
    """R rows as one sequence: each prompt once, behind it its responses without their last tokens.

    A last token predicts nothing that is asked for, and nothing looks back at it.

    Example:
        Prompt (1, 5) with responses (7, 8, 2) and (9, 2) is the sequence 1 5 7 8 9 at positions 0 1 2 3 2.

    Attributes:
        input_ids_T: int64.
        position_ids_T: int64, where a token stands in its own row, counted from 0.
        positions_N: int64, index into the sequence of the position that predicts each response token.
        targets_N: int64, the response tokens, row after row.
        prompt_T: int64, which prompt a position belongs to.
        response_T: int64, which row's response a position belongs to; -1 for a prompt.
        rectangles: rows of similar length for the attention, each [b, L] indices into the sequence. A prompt is in all
            the rows it belongs to. What stands behind a row's end does not matter.
        output_T: int64, where in all the rectangles, flattened and one behind the other, the output of a position is.
    """

    input_ids_T: Tensor
    position_ids_T: Tensor
    positions_N: Tensor
    targets_N: Tensor
    prompt_T: Tensor
    response_T: Tensor
    rectangles: tuple[Tensor, ...]
    output_T: Tensor


def pack_rows(rows: TokenRows, device: torch.device) -> PackedRows:
    """Lays rows out without padding; neighbours with equal prompts share it."""
    ids: list[int] = []
    positions: list[Tensor] = []  # of each response token's prediction
    pieces: list[tuple[int, int, int, int]] = []  # length, first position, prompt, row or -1
    attention_rows: list[tuple[int, int, int, int, bool]] = []  # prompt's start and end, response's, prompt is new
    for prompt_index, span in enumerate(rows.prompt_spans):
        prompt = rows.prompt_ids[span[0]]
        start, end = len(ids), len(ids) + len(prompt)
        ids.extend(prompt)
        pieces.append((len(prompt), 0, prompt_index, -1))
        for row in span:
            inputs = rows.response_ids[row][:-1]
            first = len(ids)
            ids.extend(inputs)
            pieces.append((len(inputs), len(prompt), prompt_index, row))
            if rows.response_ids[row]:
                positions.append(torch.cat([torch.tensor([end - 1]), torch.arange(first, len(ids))]))
            if row == span[0] or len(inputs):
                attention_rows.append((start, end, first, len(ids), row == span[0]))
    lengths = torch.tensor([piece[0] for piece in pieces])
    rectangles, output_T = _rectangles(attention_rows, len(ids))
    return PackedRows(
        input_ids_T=torch.tensor(ids, dtype=torch.long).to(device),
        position_ids_T=torch.cat([torch.arange(first, first + n) for n, first, _, _ in pieces]).to(device),
        positions_N=(torch.cat(positions) if positions else torch.empty(0, dtype=torch.long)).to(device),
        targets_N=_targets(rows).to(device),
        prompt_T=torch.tensor([piece[2] for piece in pieces]).repeat_interleave(lengths).to(device),
        response_T=torch.tensor([piece[3] for piece in pieces]).repeat_interleave(lengths).to(device),
        rectangles=tuple(rectangle.to(device) for rectangle in rectangles),
        output_T=output_T.to(device),
    )


def _rectangles(attention_rows: list[tuple[int, int, int, int, bool]], T: int) -> tuple[list[Tensor], Tensor]:
    """Rows of similar length together, longest first, and where each position's output will be."""

    def length(row: tuple[int, int, int, int, bool]) -> int:
        return row[1] - row[0] + row[3] - row[2]

    buckets: list[list[tuple[int, int, int, int, bool]]] = []
    for row in sorted(attention_rows, key=lambda row: (-length(row), row[2])):
        longest = length(buckets[-1][0]) if buckets else 0
        if buckets and (length(row) >= _LEAST_FILL * longest or longest**2 - length(row) ** 2 <= _SHORT_ROW**2):
            buckets[-1].append(row)
        else:
            buckets.append([row])
    rectangles, output_T, offset = [], torch.empty(T, dtype=torch.long), 0
    for bucket in buckets:
        L = length(bucket[0])
        rectangle = torch.zeros((len(bucket), L), dtype=torch.long)
        for index, (start, end, first, last, new) in enumerate(bucket):
            n, at = end - start, offset + index * L
            rectangle[index, :n] = torch.arange(start, end)
            rectangle[index, n : n + last - first] = torch.arange(first, last)
            if new:
                output_T[start:end] = torch.arange(at, at + n)
            output_T[first:last] = torch.arange(at + n, at + n + last - first)
        rectangles.append(rectangle)
        offset += rectangle.numel()
    return rectangles, output_T


def _targets(rows: TokenRows) -> Tensor:
    return torch.tensor([token for response in rows.response_ids for token in response], dtype=torch.long)
