"""Sampling from the geometric mixture of two policies."""

import pytest
import torch

from sppo_lightning.engines import Transformers
from sppo_lightning.engines.mixed_policy import MixedPolicy
from sppo_lightning.errors import EngineError

from .conftest import EOS, make_policy, tiny_llama


@pytest.fixture
def two():
    """Two policies of different weights and depths."""
    other = tiny_llama(num_hidden_layers=1)
    torch.manual_seed(5)
    for parameter in other.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return make_policy(tiny_llama()), make_policy(other)


def generate(policy, prompts, num_samples=6, **sampling):
    engine = Transformers(max_new_tokens=12, **sampling)
    engine.open(policy)
    seeds = [[1000 * b + k for k in range(num_samples)] for b in range(len(prompts))]
    return engine.generate(prompts, seeds)


@torch.no_grad()
def mixed_logps(two, weight, prompt_ids, response_ids):
    """[T, V] log of p^(1-a) q^a, normalised at each token, from the definition."""
    ids = torch.tensor([[*prompt_ids, *response_ids]])
    p, q = (policy.model(ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1) for policy in two)
    return ((1 - weight) * p + weight * q).log_softmax(-1)


@pytest.mark.parametrize("weight", [0.125, 0.5])
def test_every_token_is_drawn_from_the_mixture(two, prompts, weight):
    base, other = two
    answers = generate(MixedPolicy(base, other, weight), prompts)
    alone = generate(base, prompts)
    assert answers.token_ids != alone.token_ids, "the second policy has a say"
    for prompt_ids, group, logps in zip(
        answers.prompt_token_ids, answers.token_ids, answers.sampler_logps, strict=True
    ):
        for ids, logp in zip(group, logps, strict=True):
            by_hand = mixed_logps(two, weight, prompt_ids, ids)
            assert logp == pytest.approx(float(by_hand[range(len(ids)), ids].sum()), abs=1e-3)


def test_greedy_takes_the_mixtures_best_token(two, prompts):
    answers = generate(MixedPolicy(*two, 0.5), prompts, num_samples=1, temperature=0.0)
    for prompt_ids, (ids,) in zip(answers.prompt_token_ids, answers.token_ids, strict=True):
        assert mixed_logps(two, 0.5, prompt_ids, ids).argmax(-1).tolist() == ids
        assert EOS not in ids[:-1]


def test_a_policy_mixed_with_itself_is_itself(two, prompts):
    base, _ = two
    assert generate(MixedPolicy(base, base, 0.5), prompts).token_ids == generate(base, prompts).token_ids


def test_an_engine_that_asks_for_one_model_is_told(two):
    mixture = MixedPolicy(*two, 0.5)
    for ask in (lambda: mixture.model, lambda: mixture.folder):
        with pytest.raises(EngineError, match="can be sampled by the Transformers engine only"):
            ask()
