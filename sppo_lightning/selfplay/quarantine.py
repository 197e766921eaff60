"""The prompts of a round that its judge had no usable verdict on."""

from __future__ import annotations

from sppo_lightning.selfplay.store import RoundFolder


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
