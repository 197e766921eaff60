import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
)

from sppo_lightning.engines import Transformers
from sppo_lightning.engines.decoding import _SEGMENT
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.functional.layout import layout_of
from sppo_lightning.functional.logps import response_logps
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.types import Prompt

from .conftest import EOS, VOCAB, make_policy, tiny_llama

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": EOS, "initializer_range": 0.3}
MODELS = {
    "llama": tiny_llama,
    # Soft-capped logits, and a window shorter than most of the prompts.
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=6,
            final_logit_softcapping=3.0,
            **SPECIAL,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, **SPECIAL)),
    # Its state cannot be handed to `generate`: the way without a shared prefill.
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=8, **SPECIAL)
    ),
}


def build(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    layout_of(model)  # a loaded policy's attention is what it is trained with: Gemma-2's is soft-capped
    return make_policy(model)


def opened(policy, **arguments):
    # More than two of the segments after which finished responses leave the batch.
    engine = Transformers(**{"max_new_tokens": 2 * _SEGMENT + 4} | arguments)
    engine.open(policy)
    return engine


@pytest.mark.parametrize("name", MODELS)
def test_a_response_is_the_same_alone_and_in_any_batch(name, prompts, seeds):
    policy = build(name)
    together = opened(policy).generate(prompts, seeds).token_ids
    small_batches = opened(policy, batch_tokens=100).generate(prompts, seeds).token_ids
    engine = opened(policy)
    alone = [
        [engine.generate([prompt], [[seed]]).token_ids[0][0] for seed in row[:2]]
        for prompt, row in zip(prompts, seeds, strict=True)
    ]
    order = [7, 2, 11, 0, 4]
    shuffled = engine.generate([prompts[b] for b in order], [seeds[b] for b in order]).token_ids
    assert small_batches == together
    assert alone == [responses[:2] for responses in together]
    assert shuffled == [together[b] for b in order]


def assert_sampler_logps_are_the_policys(policy, answer):
    rows = TokenRows(
        prompt_ids=[
            ids for ids, responses in zip(answer.prompt_token_ids, answer.token_ids, strict=True) for _ in responses
        ],
        response_ids=[response for responses in answer.token_ids for response in responses],
    )
    with torch.no_grad():
        logps_R = response_logps(policy.model, rows)
    torch.testing.assert_close(torch.tensor(answer.sampler_logps).flatten(), logps_R, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_sampler_logps_are_the_policys(name, prompts, seeds):
    policy = build(name)
    assert_sampler_logps_are_the_policys(policy, opened(policy, temperature=0.8, top_p=0.9).generate(prompts, seeds))


def test_a_model_that_keeps_its_state_in_its_modules(prompts, seeds):
    # Its cache does not hold the prompt, so decoding must not start from it. Alone, because it knows no left padding.
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, **SPECIAL
    )
    policy = make_policy(RecurrentGemmaForCausalLM(config).eval())
    assert_sampler_logps_are_the_policys(policy, opened(policy).generate(prompts[1:2], seeds[1:2]))


def filtered(probs, temperature=1.0, top_p=1.0, top_k=0):
    """The sampling distribution, by the definitions of the three arguments."""
    probs = probs ** (1 / temperature)
    order = np.argsort(-probs)
    if top_k:
        probs[order[top_k:]] = 0
    probs = probs / probs.sum()
    before = np.cumsum(probs[order]) - probs[order]
    probs[order[before >= top_p]] = 0
    return probs / probs.sum()


@pytest.mark.parametrize(
    "arguments",
    [{}, {"temperature": 0.6}, {"top_p": 0.7}, {"top_k": 3}, {"temperature": 1.5, "top_p": 0.8, "top_k": 6}],
)
def test_responses_are_distributed_as_the_policy_says(arguments):
    """Every response of at most two tokens over eight words, its frequency against its exact probability."""
    vocab = 8
    policy = make_policy(tiny_llama(vocab=vocab, initializer_range=0.15), vocab=vocab)
    prompt = Prompt(prompt_id="p", messages=({"role": "user", "content": "w3 w5"},))
    answer = opened(policy, max_new_tokens=2, **arguments).generate([prompt], [range(6000)])

    def next_token(prefix):
        with torch.no_grad():
            logits_V = policy.model(input_ids=torch.tensor([prefix])).logits[0, -1]
        return filtered(logits_V.double().softmax(-1).numpy(), **arguments)

    prompt_ids = list(answer.prompt_token_ids[0])
    first = next_token(prompt_ids)
    exact = {(EOS,): first[EOS]}
    for one, two in itertools.product(range(vocab), repeat=2):
        if one != EOS:
            exact[one, two] = first[one] * next_token([*prompt_ids, one])[two]
    assert sum(exact.values()) == pytest.approx(1)

    counts = dict.fromkeys(exact, 0)
    for response in answer.token_ids[0]:
        counts[tuple(response)] += 1
    assert all(counts[response] == 0 for response, p in exact.items() if p == 0)
    expected = {response: 6000 * p for response, p in exact.items() if p > 0}
    common = [response for response, count in expected.items() if count >= 5]
    rare = expected.keys() - set(common)
    observed = [counts[response] for response in common] + [sum(counts[response] for response in rare)] * bool(rare)
    theory = [expected[response] for response in common] + [sum(expected[response] for response in rare)] * bool(rare)
    assert len(theory) > 5
    assert chisquare(observed, theory).pvalue > 1e-4


def test_greedy_is_the_greedy_of_transformers(policy, prompts):
    answer = opened(policy, temperature=0, max_new_tokens=16).generate(prompts, [[1, 2]] * len(prompts))
    for prompt_ids, responses in zip(answer.prompt_token_ids, answer.token_ids, strict=True):
        input_ids = torch.tensor([prompt_ids])
        sequence = policy.model.generate(
            input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, max_new_tokens=16
        )[0].tolist()
        assert responses == [sequence[len(prompt_ids) :]] * 2


def test_any_of_several_terminators_ends_a_response(prompts, seeds):
    model, tokenizer = tiny_llama(), make_policy(None).tokenizer
    policy = make_policy(model)
    model.generation_config.eos_token_id = None
    policy.tokenizer = copy.deepcopy(tokenizer)
    policy.tokenizer.eos_token = None
    endless = opened(policy).generate(prompts, seeds)
    assert {reason for reasons in endless.finish_reasons for reason in reasons} == {"length"}

    model.generation_config.eos_token_id = [7, 11]
    policy.tokenizer = tokenizer  # with a third one, EOS
    answer = opened(policy).generate(prompts, seeds)
    seen = set()
    for responses, reasons, full_responses in zip(
        answer.token_ids, answer.finish_reasons, endless.token_ids, strict=True
    ):
        for response, reason, full in zip(responses, reasons, full_responses, strict=True):
            ends = [i for i, token in enumerate(full) if token in (7, 11, EOS)]
            assert response == (full[: ends[0] + 1] if ends else full)
            assert reason == ("stop" if ends else "length")
            seen |= {response[-1]} if ends else {"length"}
    assert seen == {7, 11, EOS, "length"}


def test_settings_of_the_models_own_generation_config_do_not_leak(prompts, seeds):
    policy = make_policy(tiny_llama())
    expected = opened(policy).generate(prompts, seeds).token_ids
    own = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        repetition_penalty=5.0,
        min_length=40,
        suppress_tokens=[EOS, 5, 6],
        no_repeat_ngram_size=1,
        max_length=3,
        eos_token_id=EOS,
    )
    policy.model.generation_config = own
    before = own.to_dict()
    assert opened(policy).generate(prompts, seeds).token_ids == expected
    assert policy.model.generation_config is own
    assert own.to_dict() == before


def test_dropout_is_off_and_modes_are_restored(prompts, seeds):
    policy = make_policy(tiny_llama(attention_dropout=0.5))
    expected = opened(policy).generate(prompts, seeds).token_ids
    policy.model.train()
    policy.model.model.layers[0].eval()  # somebody froze a layer
    policy.model.gradient_checkpointing_enable()
    modes = [module.training for module in policy.model.modules()]
    assert opened(policy).generate(prompts, seeds).token_ids == expected
    assert [module.training for module in policy.model.modules()] == modes
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_weights_are_read_at_each_call(prompts, seeds):
    policy = make_policy(tiny_llama())
    engine = opened(policy)
    before = engine.generate(prompts, seeds).token_ids
    with torch.no_grad():
        policy.model.lm_head.weight.neg_()
    assert engine.generate(prompts, seeds).token_ids != before


def test_bf16_policy(prompts, seeds):
    policy = make_policy(tiny_llama().bfloat16())
    answer = opened(policy).generate(prompts, seeds)
    assert all(math.isfinite(logp) and logp < 0 for logps in answer.sampler_logps for logp in logps)


def test_a_prompt_without_room_is_refused_before_generating(prompts, seeds):
    policy = make_policy(tiny_llama())
    policy.model.generate = None  # any use would raise a TypeError
    longest = max(prompts, key=lambda prompt: len(prompt.text))
    with pytest.raises(EngineError) as error:
        opened(policy, max_new_tokens=110).generate(prompts, seeds)
    message = str(error.value)
    assert f"Prompt {longest.prompt_id} has 24 tokens" in message
    assert "data.engine.max_new_tokens=110" in message
    assert "128 positions" in message
    assert "2 of 12 prompts" in message


def test_a_prompt_with_just_enough_room_is_answered(prompts, seeds):
    policy = make_policy(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2, n_positions=40)))
    policy.tokenizer.eos_token = None
    policy.model.generation_config.eos_token_id = None
    answer = opened(policy, max_new_tokens=16).generate(prompts[4:5], seeds[4:5])  # 24 tokens and 16
    assert {len(response) for response in answer.token_ids[0]} == {16}


def test_diverged_weights_are_named(prompts, seeds):
    policy = make_policy(tiny_llama())
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(EngineError, match=r"Policy start .*not numbers.*diverged"):
        opened(policy).generate(prompts, seeds)


def test_batch_tokens_must_be_positive():
    with pytest.raises(ConfigError, match=r"data\.engine\.batch_tokens .*0"):
        Transformers(batch_tokens=0)
