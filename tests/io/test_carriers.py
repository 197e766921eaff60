"""Carriers survive the disk: tables and back, whatever is in them."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from sppo_lightning.io import carriers
from sppo_lightning.io.tables import parquet_bytes, parse_parquet
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt, SamplingConfig, Targets

PROMPTS = [
    Prompt(
        prompt_id="a",
        messages=({"role": "system", "content": "S\u2028\u00e9"}, {"role": "user", "content": "\U0001f600"}),
        metadata={"answer": 3, "tags": ["x", None], "nested": {"z": 1.5}},
    ),
    Prompt(prompt_id="b", messages=({"role": "user", "content": "two"},)),
]
TOKEN_IDS = [[1, 200_000], [2]]
CANDIDATES = Candidates(
    prompts=PROMPTS,
    prompt_token_ids=TOKEN_IDS,
    token_ids=[[[5, 6], [], [7]], [[8]]],
    texts=[["five six", "", "\n"], ["eight"]],
    finish_reasons=[["stop", "length", "stop"], ["stop"]],
    sampler_logps=[[-1.5, 0.0, -3.25], [-0.5]],
    policy="round_002",
    sampling=SamplingConfig(temperature=0.7),
)


def on_disk(table: pa.Table) -> pa.Table:
    return parse_parquet(parquet_bytes(table), "memory")


def test_prompts():
    prompts, token_ids = carriers.prompts_from(on_disk(carriers.prompts_table(PROMPTS, TOKEN_IDS)))
    assert prompts == PROMPTS
    assert token_ids == TOKEN_IDS


def read_candidates(candidates):
    table = on_disk(carriers.candidates_table(candidates))
    return carriers.candidates_from(table, PROMPTS, TOKEN_IDS, policy=candidates.policy, sampling=candidates.sampling)


def test_candidates_of_different_numbers():
    assert read_candidates(CANDIDATES) == CANDIDATES


def test_candidates_without_the_sampler_s_numbers():
    silent = replace(CANDIDATES, sampler_logps=())
    assert read_candidates(silent) == silent


def random_matrix(B, K, J, self_play, scores, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(B, K, J, generator=generator)
    judged = torch.rand(B, K, J, generator=generator) < 0.7
    if self_play:
        probs = probs.triu(1) + (1 - probs.triu(1)).mT.tril(-1) + torch.eye(K) / 2
        judged = judged.triu(1) | judged.triu(1).mT | torch.eye(K, dtype=torch.bool)
    return PreferenceMatrix(
        probs_BKJ=torch.where(judged, probs, math.nan),
        judged_BKJ=judged,
        scores_BK=torch.randn(B, K, generator=generator) if scores else None,
        self_play=self_play,
        prompt_ids=["a", "b"][:B],
    )


def same(found, expected):
    assert torch.equal(found.judged_BKJ, expected.judged_BKJ)
    assert torch.equal(found.probs_BKJ[found.judged_BKJ], expected.probs_BKJ[expected.judged_BKJ])
    assert (found.scores_BK is None) == (expected.scores_BK is None)
    if expected.scores_BK is not None:
        torch.testing.assert_close(found.scores_BK, expected.scores_BK, rtol=0, atol=0, equal_nan=True)
    assert found.self_play == expected.self_play
    assert list(found.prompt_ids) == list(expected.prompt_ids)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize(("K", "J", "self_play"), [(4, 4, True), (4, 2, False), (1, 3, False)])
def test_preferences(K, J, self_play, scores):
    matrix = random_matrix(2, K, J, self_play, scores)
    same(carriers.preferences_from(on_disk(carriers.preferences_table(PROMPTS, matrix)), self_play), matrix)


def test_chunks_of_different_k_are_padded_with_what_was_not_judged():
    small, big = random_matrix(1, 2, 2, True, True), random_matrix(1, 3, 3, True, True)
    tables = [
        carriers.preferences_table([prompt], matrix) for prompt, matrix in zip(PROMPTS, (small, big), strict=True)
    ]
    joined = carriers.preferences_from(on_disk(pa.concat_tables(tables)), self_play=True)
    assert joined.probs_BKJ.shape == (2, 3, 3)
    assert not joined.judged_BKJ[0, 2].any()
    assert not joined.judged_BKJ[0, :, 2].any()
    assert joined.scores_BK[0, 2].isnan()
    same(
        PreferenceMatrix(
            probs_BKJ=joined.probs_BKJ[:1, :2, :2],
            judged_BKJ=joined.judged_BKJ[:1, :2, :2],
            scores_BK=joined.scores_BK[:1, :2],
            prompt_ids=["a"],
        ),
        small,
    )


def test_targets():
    targets = [
        Targets(
            win_rate_K=torch.tensor([0.75, math.nan, 0.25]),
            rows=(0, 2),
            row_weights=(1.0, 0.5),
            pairs=((2, 0), (0, 2)),
            pair_probs=(0.125, 0.875),
            pair_weights=(1.0, 0.0),
        ),
        Targets(win_rate_K=torch.tensor([0.5]), rows=(), row_weights=()),
    ]
    scores = torch.tensor([[1.0, math.nan, -1.0], [0.0, math.nan, math.nan]])
    rows, pairs = (on_disk(table) for table in carriers.targets_tables(PROMPTS, targets, scores))
    back = carriers.targets_from(PROMPTS, rows, pairs)
    for found, expected in zip(back, targets, strict=True):
        torch.testing.assert_close(found.win_rate_K, expected.win_rate_K, rtol=0, atol=0, equal_nan=True)
        assert replace(found, win_rate_K=expected.win_rate_K) == expected
    assert rows["candidate"].to_pylist() == [0, 1, 2, 0]
    assert rows["trained"].to_pylist() == [True, False, True, False]
    assert rows["weight"].to_pylist() == [1.0, 0.0, 0.5, 0.0]
    assert rows["score"].to_pylist()[::2] == [1.0, -1.0]
    assert carriers.targets_tables(PROMPTS, targets)[0]["score"].null_count == 4
