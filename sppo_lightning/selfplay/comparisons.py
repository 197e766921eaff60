"""A round's verdicts as comparisons of two responses, what a reward model is fitted on."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sppo_lightning.io import carriers
from sppo_lightning.selfplay.store import CANDIDATES, DRAWS, RoundFolder, opponents_stage

Responses = dict[str, list[Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class PromptComparisons:
    """One prompt's responses, and how pairs of them were judged.

    Attributes:
        prompt_id: names the prompt.
        prompt_ids: the prompt's tokens.
        response_ids: [N] token ids of the responses.
        pairs: the judged pairs, as indices into `response_ids`.
        probs: P(the first of a pair beats the second).
    """

    prompt_id: str
    prompt_ids: Sequence[int]
    response_ids: Sequence[Sequence[int]]
    pairs: Sequence[tuple[int, int]]
    probs: Sequence[float]


def read_comparisons(folder: RoundFolder, oracle: str) -> list[PromptComparisons]:
    """All comparisons that an oracle made in a round, each once.

    Args:
        folder: the round, judged.
        oracle: the oracle's name.

    Returns:
        one entry for each prompt and whatever its candidates were compared with: each other, or an opponent's
        responses. Prompts without a judged pair are left out.

    Raises:
        RunFolderError: a file is missing or damaged.
    """
    verdicts = folder.verdicts(oracle)
    prompts, token_ids = carriers.prompts_from(folder.read_prompts())
    tokens_of = {prompt.prompt_id: ids for prompt, ids in zip(prompts, token_ids, strict=True)}
    found = []
    for name in sorted(path.name for path in (folder.path / verdicts).iterdir() if path.is_dir()):
        self_play = name == "self"
        rows, columns = (DRAWS, CANDIDATES) if name == DRAWS else (CANDIDATES, opponents_stage(name))
        for index in range(folder.settings["num_chunks"]):
            table = folder.read_chunk(f"{verdicts}/{name}", index)
            row_ids = _responses(folder, rows, index)
            column_ids = {} if self_play else _responses(folder, columns, index)
            matrix = carriers.preferences_from(table, self_play=self_play)
            assert matrix.judged_BKJ is not None
            judged_BKJ = matrix.judged_BKJ.triu(1) if self_play else matrix.judged_BKJ
            for prompt_id, judged_KJ, probs_KJ in zip(matrix.prompt_ids, judged_BKJ, matrix.probs_BKJ, strict=True):
                if not judged_KJ.any():
                    continue
                ours = row_ids[prompt_id]
                shift = 0 if self_play else len(ours)
                found.append(
                    PromptComparisons(
                        prompt_id=prompt_id,
                        prompt_ids=tokens_of[prompt_id],
                        response_ids=[*ours, *column_ids.get(prompt_id, [])],
                        pairs=[(i, j + shift) for i, j in judged_KJ.nonzero().tolist()],
                        probs=probs_KJ[judged_KJ].tolist(),
                    )
                )
    return found


def _responses(folder: RoundFolder, stage: str, index: int) -> Responses:
    """Prompt id -> token ids of its responses in one chunk, as arrays: lists of a run's tokens would take gigabytes."""
    responses: Responses = defaultdict(list)
    for row in folder.read_chunk(stage, index).select(["prompt_id", "token_ids"]).to_pylist():
        responses[row["prompt_id"]].append(array("i", row["token_ids"]))
    return responses
