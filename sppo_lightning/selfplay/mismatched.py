"""Prompts paired with other prompts' responses, from which KTO estimates how far the policy has moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sppo_lightning.errors import RunFolderError
from sppo_lightning.selfplay.store import CANDIDATES, RoundFolder


def next_prompts_response(folder: RoundFolder, kept: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """For each prompt the token ids of the first kept response of the next one, the last prompt taking the first's.

    Args:
        folder: the round, its candidates whole.
        kept: prompt id -> its candidates that are trained on, in the round's order.

    Raises:
        RunFolderError: there is no other prompt.
    """
    if len(kept) < 2:
        raise RunFolderError(
            f"{folder}: only {len(kept)} prompt has responses to train on, and model.objective needs the responses of "
            "other prompts; give more prompts, or an objective without mismatched rows (KTOPair)"
        )
    first = {prompt_id: candidates[0] for prompt_id, candidates in kept.items()}
    token_ids = {}
    for index in range(folder.settings["num_chunks"]):
        chunk = folder.read_chunk(CANDIDATES, index).select(["prompt_id", "candidate", "token_ids"])
        for row in chunk.to_pylist():
            if first.get(row["prompt_id"]) == row["candidate"]:
                token_ids[row["prompt_id"]] = row["token_ids"]
    prompts = list(first)
    return {prompt: token_ids[following] for prompt, following in zip(prompts, prompts[1:] + prompts[:1], strict=True)}
