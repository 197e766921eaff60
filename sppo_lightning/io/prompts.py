"""Prompts, checked one by one, with ids that last."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sppo_lightning.errors import DataError
from sppo_lightning.io.prompt_rows import read_row
from sppo_lightning.io.sources import source_rows
from sppo_lightning.types import Prompt


def read_prompts(source: str | Path | Sequence[Any]) -> list[Prompt]:
    """Reads prompts and checks every one of them.

    `io.prompt_rows.read_row` says what a row may look like. A prompt without an id gets one from its content, so that
    it keeps it when rows around it come and go. Of several such prompts with the same messages the first is kept, and a
    warning says how many were dropped: they would otherwise count double, and stand in the training and the held-out
    prompts at once.

    Args:
        source: a file, a folder, `package:quickstart/prompts.jsonl`, the id of a dataset on the hub, or the rows
            themselves; see `io.sources.source_rows`.

    Returns:
        The prompts in the order of their rows; at least one.

    Raises:
        DataError: names the file and the line or row, and says what to do.
    """
    prompts: dict[str, Prompt] = {}
    places: dict[str, str] = {}
    dropped = []
    for where, row in source_rows(source):
        prompt, has_given_id = read_row(row, where)
        seen = places.get(prompt.prompt_id)
        if seen is None:
            prompts[prompt.prompt_id] = prompt
            places[prompt.prompt_id] = where
        elif has_given_id:
            raise DataError(
                f"{where}: the id {prompt.prompt_id!r} stands already at {seen}; give each prompt its own, or remove "
                "the ids to have them made from the content"
            )
        else:
            dropped.append((where, seen))
    if dropped:
        warnings.warn(
            f"{len(dropped)} prompts without an id repeat the messages of an earlier one and are dropped; the first is "
            f"{dropped[0][0]}, a copy of {dropped[0][1]}. Give them ids to keep them",
            stacklevel=2,
        )
    return list(prompts.values())
