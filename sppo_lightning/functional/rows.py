"""Prompts with responses as token ids, and how they are split into batches and packs within a token budget.

Shapes: R rows (one row = one prompt with one response), T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """R prompts with one response each, as token ids. Neighbours with equal prompts can share one copy of it.

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

    @property
    def prompt_spans(self) -> list[range]:
        """The rows of each run of neighbours with equal prompts."""
        firsts = [
            row
            for row, prompt in enumerate(self.prompt_ids)
            if row == 0 or not _equal(prompt, self.prompt_ids[row - 1])
        ]
        return [range(first, end) for first, end in pairwise([*firsts, len(self)])]

    @property
    def prompt_lengths(self) -> list[tuple[int, list[int]]]:
        """For each of `prompt_spans`: tokens of the prompt and of its responses."""
        return [
            (len(self.prompt_ids[span[0]]), [len(self.response_ids[row]) for row in span]) for span in self.prompt_spans
        ]

    def at(self, indices: Sequence[int]) -> TokenRows:
        """Some of the rows."""
        return TokenRows(
            prompt_ids=[self.prompt_ids[row] for row in indices],
            response_ids=[self.response_ids[row] for row in indices],
        )


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


def split_prompts(lengths: Sequence[tuple[int, Sequence[int]]], max_tokens: int, *, packed: bool) -> list[list[int]]:
    """Splits prompts with all their responses into packs within a token budget.

    A pack counts its tokens, each prompt once; where rows are padded, its rows times the longest. The same lengths
    always give the same packs.

    Args:
        lengths: [B] tokens of a prompt and of each of its responses.
        max_tokens: of one pack. A prompt larger than this is a pack of its own.
        packed: rows are packed, not padded.

    Returns:
        Indices into `lengths`; every one is in exactly one pack.

    Example:
        `split_prompts([(1, [3, 4]), (2, [1])], max_tokens=11, packed=True)` is `[[0, 1]]`.
    """
    if packed:
        return _first_fit([prompt + sum(responses) for prompt, responses in lengths], max_tokens)
    longest = [prompt + max(responses, default=0) for prompt, responses in lengths]
    packs: list[list[int]] = []
    num_rows = 0
    for index in sorted(range(len(lengths)), key=lambda index: (longest[index], index)):
        # Shortest first, so that the newest is a pack's longest and little is padded.
        num_rows += len(lengths[index][1])
        if not packs or num_rows * longest[index] > max_tokens:
            packs.append([])
            num_rows = len(lengths[index][1])
        packs[-1].append(index)
    return packs


def _first_fit(sizes: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Largest first, each into the first pack with room: nearly as few packs as can be."""
    totals: list[int] = []
    packs: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        pack = next((pack for pack, total in enumerate(totals) if total + sizes[index] <= max_tokens), len(packs))
        if pack == len(packs):
            totals.append(0)
            packs.append([])
        totals[pack] += sizes[index]
        packs[pack].append(index)
    return [sorted(pack) for pack in packs]


def split_evenly(sizes: Sequence[int], num_parts: int) -> list[list[int]]:
    """Splits things over ranks so that each rank gets about as many tokens: the largest first to the lightest rank.

    Args:
        sizes: [B] tokens of each.
        num_parts: number of ranks or packs.

    Returns:
        `num_parts` lists of indices into `sizes`, ascending; some are empty where there are fewer things than parts.
    """
    totals = [0] * num_parts
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        lightest = min(range(num_parts), key=lambda part: (totals[part], part))
        totals[lightest] += sizes[index]
        parts[lightest].append(index)
    return [sorted(part) for part in parts]


def _equal(left: Sequence[int], right: Sequence[int]) -> bool:
    return left is right or list(left) == list(right)
