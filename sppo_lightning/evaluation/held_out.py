"""Held-out responses of a policy, sampled once and kept, and win rates between two policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import RunFolderError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io.carriers import candidates_from, candidates_table
from sppo_lightning.io.tables import read_table, write_table
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.types import Candidates, PolicyHandle, Progress, Prompt

# Between two movements of the bar; a response depends on its own seed alone, so this changes nothing.
_PROMPTS_A_CALL = 32


def held_out_responses(
    folder: Path,
    *,
    policy: PolicyHandle,
    engine: Engine,
    prompts: Sequence[Prompt],
    prompt_token_ids: Sequence[Sequence[int]],
    num_samples: int,
    seed: int,
    progress: Progress,
) -> Candidates:
    """A policy's responses to the held-out prompts, from `responses.parquet` if they were sampled before.

    Every policy is sampled with seeds of its own, so that two policies with equal weights are compared fairly: equal
    seeds would give equal responses and hide the spread.

    Args:
        folder: where this policy's evaluation lies.
        policy: whose responses.
        engine: generates them, and is closed again.
        prompts: the held-out prompts.
        prompt_token_ids: the prompts as the policy sees them.
        num_samples: responses for each prompt.
        seed: the run's seed.
        progress: tells the person who waits.

    Raises:
        RunFolderError: the stored responses are to other prompts.
    """
    path = folder / "responses.parquet"
    if not path.is_file():
        seeds_BK = [
            [derive_seed(seed, "held_out", policy.name, prompt.prompt_id, sample) for sample in range(num_samples)]
            for prompt in prompts
        ]
        bar = progress(f"evaluating {policy.name}", len(prompts) * num_samples, "responses")
        parts = []
        engine.open(policy)
        try:
            for first in range(0, len(prompts), _PROMPTS_A_CALL):
                part = slice(first, first + _PROMPTS_A_CALL)
                parts.append(candidates_table(engine.generate(prompts[part], seeds_BK[part])))
                bar.update(parts[-1].num_rows)
        finally:
            engine.close()
            bar.close()
        write_table(path, pa.concat_tables(parts), kind="held_out_responses")
    table = read_table(path)
    if set(table["prompt_id"].to_pylist()) != {prompt.prompt_id for prompt in prompts}:
        raise RunFolderError(f"{path} answers other prompts than the held-out ones; delete it to have it made again")
    return candidates_from(table, prompts, prompt_token_ids, policy=policy.name, sampling=engine.sampling)


def comparisons(oracle: PreferenceOracle, ours: Candidates, theirs: Candidates) -> list[Tensor]:
    """P(ours beats theirs) of every judged pair of responses, prompt by prompt.

    Prompts are the independent units; give this to `functional.intervals.win_rate_interval`.
    """
    matrix = oracle.compare(ours, theirs)
    assert matrix.judged_BKJ is not None
    return [
        probs_KJ[judged_KJ]
        for probs_KJ, judged_KJ in zip(matrix.probs_BKJ, matrix.judged_BKJ, strict=True)
        if bool(judged_KJ.any())
    ]
