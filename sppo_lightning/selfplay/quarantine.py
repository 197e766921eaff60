"""The prompts of a round that its judge had no usable verdict on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.types import Prompt

QUARANTINED = "quarantined"


def quarantined(folder: RoundFolder, oracle: str) -> list[str]:
    """Prompts of which nothing counts as judged, in what is judged so far.

    `oracles.round_judge` marks them so: of any other prompt at least the comparisons of responses with themselves do.

    Args:
        folder: the round.
        oracle: the judge's name.

    Returns:
        their ids, in the round's order, each once.
    """
    found: dict[str, None] = {}
    for stage in sorted((folder.path / folder.verdicts(oracle)).glob("*/")):
        name = stage.relative_to(folder.path).as_posix()
        for index in range(folder.settings["num_chunks"]):
            if folder.has_chunk(name, index):
                table = folder.read_chunk(name, index).select(["prompt_id", "judged"]).to_pylist()
                found |= {row["prompt_id"]: None for row in table if not any(map(any, row["judged"]))}
    return list(found)


def list_quarantined(folder: RoundFolder, oracle: str, prompts: Sequence[Prompt]) -> None:
    """Writes `quarantined.parquet` into the round for people to look at, if there is anything to list.

    Args:
        folder: the round, judged.
        oracle: the judge's name.
        prompts: the round's.
    """
    ids = set(quarantined(folder, oracle))
    if ids:
        rows = [{"prompt_id": p.prompt_id, "prompt": p.text} for p in prompts if p.prompt_id in ids]
        folder.write_table(QUARANTINED, pa.Table.from_pylist(rows))
