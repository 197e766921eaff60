"""A round's preference data under the column names of SPPO's official datasets.

The scripts of arXiv 2405.00675 (uclaml/SPPO, scripts/compute_prob.py) write two files: one of all K responses with
their `probability` matrix, and one of the pairs they train on:

    chosen, rejected     whole conversations as lists of messages, the response last
    chosen_probs         P(chosen beats rejected)
    chosen_probs_win     win rate of chosen; lose: of rejected. Theirs count a response against itself as 1/2

Here one file holds both, a row a pair, so that their trainer reads it; `io.official_import` reads all three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from sppo_lightning.io.tables import write_table
from sppo_lightning.types import Message, PreferenceMatrix, Prompt, Targets

_MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


def write_official(
    path: str | Path,
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[str]],
    matrix: PreferenceMatrix,
    targets: Sequence[Targets],
    kind: str = "official",
) -> str:
    """Writes one parquet row for each pair that is trained on.

    Columns: `prompt_id`, `prompt` (a string if all prompts are single user turns, else lists of messages), `responses`
    [K], `probability` [K][K] (None where not judged), `win_rate` [K], and the official `chosen`, `rejected`,
    `chosen_probs`, `chosen_probs_win`, `chosen_probs_lose`. Pairs of weight 0 and prompts without pairs are left out.

    Args:
        path: the file.
        prompts: B prompts.
        texts: [B][K] the responses.
        matrix: the self-play preferences of these responses.
        targets: B, the win rates and pairs.
        kind: see `io.files.atomic_write`.

    Returns:
        The SHA-256 of the file.

    Raises:
        ValueError: a matrix against other opponents.
        RunFolderError: the disk refused.
    """
    if not matrix.self_play:
        raise ValueError("write_official: `probability` compares the responses with each other; got other opponents")
    single_turns = all(len(prompt.messages) == 1 for prompt in prompts)
    rows: list[dict[str, Any]] = []
    for b, (prompt, responses, target) in enumerate(zip(prompts, texts, targets, strict=True)):
        K = len(responses)
        win_rates = [_none_for_nan(value) for value in target.win_rate_K.tolist()]
        for (i, j), prob, weight in zip(target.pairs, target.pair_probs, target.pair_weights, strict=True):
            if weight == 0:
                continue
            rows.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "prompt": prompt.text if single_turns else list(prompt.messages),
                    "responses": list(responses),
                    "probability": _nested(matrix, b, K),
                    "win_rate": win_rates,
                    "chosen": [*prompt.messages, Message(role="assistant", content=responses[i])],
                    "rejected": [*prompt.messages, Message(role="assistant", content=responses[j])],
                    "chosen_probs": prob,
                    "chosen_probs_win": win_rates[i],
                    "chosen_probs_lose": win_rates[j],
                }
            )
    schema = pa.schema(
        {
            "prompt_id": pa.string(),
            "prompt": pa.string() if single_turns else _MESSAGES,
            "responses": pa.list_(pa.string()),
            "probability": pa.list_(pa.list_(pa.float64())),
            "win_rate": pa.list_(pa.float64()),
            "chosen": _MESSAGES,
            "rejected": _MESSAGES,
            "chosen_probs": pa.float64(),
            "chosen_probs_win": pa.float64(),
            "chosen_probs_lose": pa.float64(),
        }
    )
    return write_table(path, rows, schema, kind)


def _nested(matrix: PreferenceMatrix, b: int, K: int) -> list[list[float | None]]:
    assert matrix.judged_BKJ is not None
    probs, judged = matrix.probs_BKJ[b, :K, :K].tolist(), matrix.judged_BKJ[b, :K, :K].tolist()
    return [
        [p if known else None for p, known in zip(*lines, strict=True)] for lines in zip(probs, judged, strict=True)
    ]


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
