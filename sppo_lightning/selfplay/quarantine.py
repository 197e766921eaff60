"""The prompts of a round that its judge had no usable verdict on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import pyarrow as pa

from sppo_lightning.io.chunks import list_chunks
from sppo_lightning.selfplay.reward_model import REWARD_MODEL, REWARDS
from sppo_lightning.selfplay.store import IMPORTED, RoundFolder
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
        for index in list_chunks(stage):
            found |= dict.fromkeys(_quarantined(folder, stage.relative_to(folder.path).as_posix(), index))
    return list(found)


def _quarantined(folder: RoundFolder, stage: str, index: int) -> list[str]:
    table = folder.read_chunk(stage, index).select(["prompt_id", "judged"]).to_pylist()
    return [row["prompt_id"] for row in table if not any(map(any, row["judged"]))]


def forget_quarantined(folder: RoundFolder, oracle: str) -> None:
    """Removes what was judged together with quarantined prompts, so that it is judged again, and what follows from it.

    Args:
        folder: the round; of one that is committed, or was imported, nothing is removed.
        oracle: the judge's name.
    """
    if not folder.exists or folder.is_committed or folder.verdicts(oracle) == IMPORTED:
        return
    again = [
        path
        for stage in (folder.path / folder.verdicts(oracle)).glob("*/")
        for index, path in list_chunks(stage).items()
        if _quarantined(folder, stage.relative_to(folder.path).as_posix(), index)
    ]
    if again:  # first what other verdicts would not lead to
        for follows in ("reference_logps", REWARDS, REWARD_MODEL):
            shutil.rmtree(folder.path / follows, ignore_errors=True)
        (folder.path / f"{QUARANTINED}.parquet").unlink(missing_ok=True)
    for path in again:
        path.unlink()


def list_quarantined(folder: RoundFolder, oracle: str, prompts: Sequence[Prompt]) -> list[str]:
    """Writes `quarantined.parquet` into the round for people to look at, if there is anything to list.

    Args:
        folder: the round, judged.
        oracle: the judge's name.
        prompts: the round's.

    Returns:
        their ids.
    """
    ids = quarantined(folder, oracle)
    if ids:
        rows = [{"prompt_id": p.prompt_id, "prompt": p.text} for p in prompts if p.prompt_id in ids]
        folder.write_table(QUARANTINED, pa.Table.from_pylist(rows))
    return ids
