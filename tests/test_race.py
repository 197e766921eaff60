"""A small style race: through a language model, SPPO does what its exact update does."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo_lightning.__main__ import main
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.prompts import read_prompts
from sppo_lightning.oracles import StyleGame
from sppo_lightning.quickstart.style_mix import exact_style_mix

START = "package:quickstart/policy"
ETA, ROUNDS = 6.0, 4


@pytest.fixture(scope="module")
def mixes(tmp_path_factory):
    """[T, S] the exact style mix of the start and after each of four rounds, a mean over all prompts."""
    out = tmp_path_factory.mktemp("race") / "run"
    settings = {
        "data.num_rounds": ROUNDS,
        "data.prompts_per_round": 96,
        "trainer.default_root_dir": out,
        "trainer.logger": "false",
        "trainer.callbacks": "[]",
    }
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert main(["fit", "--config", "configs/race.yaml", *words]) == 0
    tokenizer, prompts = AutoTokenizer.from_pretrained(resolve(START)), read_prompts("package:quickstart/prompts.jsonl")
    folders = [resolve(START), *sorted(out.glob("exports/round_*"))]
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in folders]
    return np.stack([exact_style_mix(model, tokenizer, prompts).mean(0).numpy() for model in models])


def test_it_follows_multiplicative_weights(mixes):
    probs_SS = StyleGame(quality_weight=0.0).style_matrix().numpy()
    expected = [mixes[0]]
    for _ in range(ROUNDS):
        weight_S = expected[-1] * np.exp(ETA * probs_SS @ expected[-1])
        expected.append(weight_S / weight_S.sum())
    distance = [np.abs(ours - theirs).sum() / 2 for ours, theirs in zip(mixes, expected, strict=True)]
    moved = [np.abs(theirs - expected[0]).sum() / 2 for theirs in expected]
    assert moved[-1] > 0.3, "four rounds go far"
    assert max(distance) < 0.15


def test_the_mixture_is_harder_to_beat_than_the_last_round(mixes):
    game, no_quality = StyleGame(quality_weight=0.0), torch.zeros(1)
    last, mixture = (game.exploitability(torch.from_numpy(mix)[None], no_quality) for mix in (mixes[-1], mixes.mean(0)))
    assert mixture < last
