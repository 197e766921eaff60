"""Where a response ends."""

from __future__ import annotations

from collections.abc import Sequence

from sppo_lightning.types import FinishReason


def terminators(*sources: int | Sequence[int] | None) -> list[int]:
    """Every id that ends a response, without repetition: chat models often have several.

    Args:
        sources: what a generation configuration and a tokenizer have as their end of sequence.
    """
    ids: list[int] = []
    for source in sources:
        ids += [] if source is None else [source] if isinstance(source, int) else list(source)
    return list(dict.fromkeys(ids))


def finish_reason(token_ids: Sequence[int], eos_ids: Sequence[int]) -> FinishReason:
    """Whether a response ended by itself."""
    return "stop" if token_ids[-1] in eos_ids else "length"
