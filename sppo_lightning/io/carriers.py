"""A round's carriers as columnar tables, and back. Every number lies on one key: (prompt_id, candidate)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt, SamplingConfig, Targets

PROMPTS = pa.schema(
    {
        "prompt_id": pa.string(),
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "metadata": pa.string(),
        "prompt_token_ids": pa.list_(pa.int32()),
    }
)
CANDIDATES = pa.schema(
    {
        "prompt_id": pa.string(),
        "candidate": pa.int16(),
        "token_ids": pa.list_(pa.int32()),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "sampler_logp": pa.float32(),
    }
)
PREFERENCES = pa.schema(
    {
        "prompt_id": pa.string(),
        "probs": pa.list_(pa.list_(pa.float32())),
        "judged": pa.list_(pa.list_(pa.bool_())),
        "scores": pa.list_(pa.float32()),
    }
)
TARGETS = pa.schema(
    {
        "prompt_id": pa.string(),
        "candidate": pa.int16(),
        "win_rate": pa.float32(),
        "score": pa.float32(),
        "trained": pa.bool_(),
        "weight": pa.float32(),
    }
)
PAIRS = pa.schema(
    {
        "prompt_id": pa.string(),
        "chosen": pa.int16(),
        "rejected": pa.int16(),
        "pair_prob": pa.float32(),
        "weight": pa.float32(),
    }
)
DRAWS = pa.schema({"prompt_id": pa.string(), "win_rates": pa.list_(pa.float32())})
LOGPS = pa.schema({"prompt_id": pa.string(), "candidate": pa.int16(), "logp": pa.float32()})


def prompts_table(prompts: Sequence[Prompt], prompt_token_ids: Sequence[Sequence[int]]) -> pa.Table:
    """One row a prompt, as the engine will see it."""
    return pa.Table.from_pylist(
        [
            {
                "prompt_id": prompt.prompt_id,
                "messages": list(prompt.messages),
                "metadata": json.dumps(dict(prompt.metadata), ensure_ascii=False, sort_keys=True, default=str),
                "prompt_token_ids": list(ids),
            }
            for prompt, ids in zip(prompts, prompt_token_ids, strict=True)
        ],
        PROMPTS,
    )


def prompts_from(table: pa.Table) -> tuple[list[Prompt], list[list[int]]]:
    """The prompts and their token ids."""
    rows = table.to_pylist()
    prompts = [
        Prompt(prompt_id=r["prompt_id"], messages=tuple(r["messages"]), metadata=json.loads(r["metadata"]))
        for r in rows
    ]
    return prompts, [r["prompt_token_ids"] for r in rows]


def candidates_table(candidates: Candidates) -> pa.Table:
    """One row a response."""
    rows = []
    for b, prompt in enumerate(candidates.prompts):
        for k, ids in enumerate(candidates.token_ids[b]):
            rows.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "candidate": k,
                    "token_ids": list(ids),
                    "text": candidates.texts[b][k],
                    "finish_reason": candidates.finish_reasons[b][k],
                    "sampler_logp": candidates.sampler_logps[b][k] if candidates.sampler_logps else None,
                }
            )
    return pa.Table.from_pylist(rows, CANDIDATES)


def candidates_from(
    table: pa.Table,
    prompts: Sequence[Prompt],
    prompt_token_ids: Sequence[Sequence[int]],
    policy: str,
    sampling: SamplingConfig,
) -> Candidates:
    """The candidates of these prompts, which must be all of the table's, in its order."""
    groups: dict[str, list[dict]] = {prompt.prompt_id: [] for prompt in prompts}
    for row in table.to_pylist():
        groups[row["prompt_id"]].append(row)
    has_logps = table.num_rows > 0 and table["sampler_logp"].null_count == 0
    return Candidates(
        prompts=prompts,
        prompt_token_ids=prompt_token_ids,
        token_ids=[[r["token_ids"] for r in group] for group in groups.values()],
        texts=[[r["text"] for r in group] for group in groups.values()],
        finish_reasons=[[r["finish_reason"] for r in group] for group in groups.values()],
        sampler_logps=[[r["sampler_logp"] for r in group] for group in groups.values()] if has_logps else (),
        policy=policy,
        sampling=sampling,
    )


def preferences_table(prompts: Sequence[Prompt], matrix: PreferenceMatrix) -> pa.Table:
    """One row a prompt, its matrix nested."""
    assert matrix.judged_BKJ is not None
    scores = [None] * len(prompts) if matrix.scores_BK is None else matrix.scores_BK.tolist()
    return pa.Table.from_pylist(
        [
            {"prompt_id": prompt.prompt_id, "probs": probs, "judged": judged, "scores": score}
            for prompt, probs, judged, score in zip(
                prompts, matrix.probs_BKJ.tolist(), matrix.judged_BKJ.tolist(), scores, strict=True
            )
        ],
        PREFERENCES,
    )


def preferences_from(table: pa.Table, self_play: bool) -> PreferenceMatrix:
    """The stored matrix; chunks whose K or J differ are padded with unjudged cells."""
    rows = table.to_pylist()
    K = max(len(r["probs"]) for r in rows)
    J = max(len(r["probs"][0]) for r in rows)
    probs_BKJ = torch.full((len(rows), K, J), 0.5)
    judged_BKJ = torch.zeros(len(rows), K, J, dtype=torch.bool)
    scores_BK = torch.full((len(rows), K), torch.nan)
    for b, row in enumerate(rows):
        probs_KJ = torch.tensor(row["probs"])
        probs_BKJ[b, : probs_KJ.shape[0], : probs_KJ.shape[1]] = probs_KJ
        judged_BKJ[b, : probs_KJ.shape[0], : probs_KJ.shape[1]] = torch.tensor(row["judged"])
        if row["scores"] is not None:
            scores_BK[b, : len(row["scores"])] = torch.tensor(row["scores"])
    return PreferenceMatrix(
        probs_BKJ=probs_BKJ,
        judged_BKJ=judged_BKJ,
        scores_BK=None if any(r["scores"] is None for r in rows) else scores_BK,
        self_play=self_play,
        prompt_ids=[r["prompt_id"] for r in rows],
    )


def targets_tables(
    prompts: Sequence[Prompt], targets: Sequence[Targets], scores_BK: Tensor | None = None
) -> tuple[pa.Table, pa.Table]:
    """Every candidate with win rate, score if there is one, and whether it is trained on; every trained pair."""
    rows, pairs = [], []
    for b, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        weights = dict(zip(target.rows, target.row_weights, strict=True))
        for k, win_rate in enumerate(target.win_rate_K.tolist()):
            rows.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "candidate": k,
                    "win_rate": win_rate,
                    "score": None if scores_BK is None else float(scores_BK[b, k]),
                    "trained": k in weights,
                    "weight": weights.get(k, 0.0),
                }
            )
        for (chosen, rejected), prob, weight in zip(target.pairs, target.pair_probs, target.pair_weights, strict=True):
            pairs.append(
                {
                    "prompt_id": prompt.prompt_id,
                    "chosen": chosen,
                    "rejected": rejected,
                    "pair_prob": prob,
                    "weight": weight,
                }
            )
    return pa.Table.from_pylist(rows, TARGETS), pa.Table.from_pylist(pairs, PAIRS)


def draws_table(prompts: Sequence[Prompt], win_rate_BD: Tensor) -> pa.Table:
    """One row a prompt: the win rates of its further draws of pi_t, NaN where one was not judged."""
    return pa.Table.from_pylist(
        [
            {"prompt_id": prompt.prompt_id, "win_rates": rates}
            for prompt, rates in zip(prompts, win_rate_BD.tolist(), strict=True)
        ],
        DRAWS,
    )


def targets_from(prompts: Sequence[Prompt], rows: pa.Table, pairs: pa.Table) -> list[Targets]:
    """The targets of these prompts from the two tables."""
    rows_of: dict[str, list[dict]] = {prompt.prompt_id: [] for prompt in prompts}
    pairs_of: dict[str, list[dict]] = {prompt.prompt_id: [] for prompt in prompts}
    for row in rows.to_pylist():
        rows_of[row["prompt_id"]].append(row)
    for pair in pairs.to_pylist():
        pairs_of[pair["prompt_id"]].append(pair)
    return [
        Targets(
            win_rate_K=torch.tensor([row["win_rate"] for row in rows_of[prompt_id]]),
            rows=tuple(row["candidate"] for row in rows_of[prompt_id] if row["trained"]),
            row_weights=tuple(row["weight"] for row in rows_of[prompt_id] if row["trained"]),
            pairs=tuple((pair["chosen"], pair["rejected"]) for pair in pairs_of[prompt_id]),
            pair_probs=tuple(pair["pair_prob"] for pair in pairs_of[prompt_id]),
            pair_weights=tuple(pair["weight"] for pair in pairs_of[prompt_id]),
        )
        for prompt_id in rows_of
    ]
