"""Held-out responses are sampled once with seeds of their own, and compared where they were judged."""

import math
from types import SimpleNamespace

import pytest
import torch

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import EngineError, RunFolderError
from sppo_lightning.evaluation.held_out import comparisons, held_out_responses
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt, SamplingConfig

PROMPTS = [Prompt(prompt_id=f"p{b}", messages=({"role": "user", "content": "word"},)) for b in range(3)]
TOKENS = [[1, 3 + b] for b in range(3)]


class SeedEngine(Engine):
    """Answers with its seed."""

    def __init__(self):
        self.sampling, self.calls, self.is_open = SamplingConfig(), 0, False

    def open(self, policy):
        self.policy, self.is_open = policy, True

    def close(self):
        self.is_open = False

    def generate(self, prompts, seeds_BK):
        self.calls += 1
        if self.policy.name == "broken":
            raise EngineError("out of order")
        return Candidates(
            prompts=prompts,
            prompt_token_ids=TOKENS,
            token_ids=[[[seed % 1000] for seed in seeds] for seeds in seeds_BK],
            texts=[[str(seed) for seed in seeds] for seeds in seeds_BK],
            finish_reasons=[["stop"] * len(seeds) for seeds in seeds_BK],
            policy=self.policy.name,
            sampling=self.sampling,
        )


def sample(folder, engine, name="start", prompts=PROMPTS, seed=0):
    return held_out_responses(
        folder,
        policy=SimpleNamespace(name=name),
        engine=engine,
        prompts=prompts,
        prompt_token_ids=TOKENS,
        num_samples=4,
        seed=seed,
        progress=NullProgress(),
    )


def test_responses_are_sampled_once_and_kept(tmp_path):
    engine = SeedEngine()
    first = sample(tmp_path / "start", engine)
    again = sample(tmp_path / "start", engine)
    assert engine.calls == 1
    assert not engine.is_open
    assert again == first
    assert first.num_candidates == [4, 4, 4]
    assert (tmp_path / "start" / "responses.parquet").is_file()


def test_every_response_has_a_seed_of_its_own(tmp_path):
    texts = [
        text
        for name, seed in (("start", 0), ("round_000", 0), ("start", 1))
        for group in sample(tmp_path / f"{name}{seed}", SeedEngine(), name, seed=seed).texts
        for text in group
    ]
    assert len(set(texts)) == 3 * 3 * 4


def test_answers_to_other_prompts_are_refused(tmp_path):
    sample(tmp_path, SeedEngine())
    with pytest.raises(RunFolderError, match=r"responses\.parquet answers other prompts than the held-out ones"):
        sample(tmp_path, SeedEngine(), prompts=PROMPTS[:2])


def test_an_engine_that_fails_is_closed_and_nothing_is_kept(tmp_path):
    engine = SeedEngine()
    with pytest.raises(EngineError):
        sample(tmp_path, engine, "broken")
    assert not engine.is_open
    assert not list(tmp_path.iterdir())


def test_only_judged_comparisons_are_counted():
    probs = torch.tensor([[[0.9, 0.1]], [[0.6, math.nan]], [[math.nan, math.nan]]])

    class Judge(PreferenceOracle):
        def compare(self, candidates, opponents=None):
            assert (candidates, opponents) == ("ours", "theirs")
            return PreferenceMatrix(probs_BKJ=probs, judged_BKJ=~probs.isnan(), self_play=False)

    found = comparisons(Judge(), "ours", "theirs")
    assert [values.tolist() for values in found] == [[pytest.approx(0.9), pytest.approx(0.1)], [pytest.approx(0.6)]]
