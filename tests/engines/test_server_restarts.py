"""Servers that die, come back, or do not say that they did; scripted ones."""

from __future__ import annotations

import sys
import warnings

import pytest

from sppo_lightning.engines import OpenAIServer
from sppo_lightning.errors import ConfigError, EngineError

from .served import FakeServer, completion


@pytest.fixture
def two():
    """Two servers that answer [5, end]."""
    servers = [FakeServer(), FakeServer()]
    for server in servers:
        server.answers["/v1/completions"] = completion([5, 2])
    yield servers
    for server in servers:
        server.stop()


def opened(servers, policy, **settings):
    settings = {"refresh": "none", "max_logp_gap": None, "max_new_tokens": 12, "patience_s": 600.0} | settings
    engine = OpenAIServer([server.url for server in servers], **settings)
    engine.open(policy)
    return engine


@pytest.mark.filterwarnings("ignore:.*trying again")
def test_nobody_waits_for_a_dead_server_while_others_do_the_work(two, policy, prompts):
    """With a patience of ten minutes the test would not end if somebody did."""
    engine = opened(two, policy)
    two[1].stop()
    found = engine.generate(prompts[:6], [[1]] * 6)
    assert found.token_ids == [[[5, 2]]] * 6


@pytest.mark.filterwarnings("ignore:.*trying again")
def test_what_a_server_answered_before_it_died_is_asked_of_another(two, policy, prompts):
    engine = opened(two, policy)
    two[1].answers["/v1/completions"] = completion([6, 2])
    ask = engine._endpoints.ask

    def ask_and_kill(calls, only=None):
        answers = ask(calls, only)
        if only is None and two[1].posts:
            two[1].stop()
            two[1].posts.clear()
        return answers

    engine._endpoints.ask = ask_and_kill
    found = engine.generate(prompts[:6], [[1]] * 6)
    assert found.token_ids == [[[5, 2]]] * 6


def test_a_server_that_came_back_is_given_the_policy_and_asked_again(two, policy, prompts, monkeypatch):
    given = []
    engine = opened(two, policy)
    give = engine._give
    monkeypatch.setattr(engine, "_give", lambda policy, server: (given.append(server.url), give(policy, server)))
    two[1].metrics = "process_start_time_seconds 99.5\n"
    found = engine.generate(prompts[:6], [[1]] * 6)
    assert given == [two[1].url]
    assert len(two[0].posts) + len(two[1].posts) > 6
    assert found.token_ids == [[[5, 2]]] * 6


def test_a_server_that_tells_no_start_is_compared_after_each_call(two, policy, prompts, monkeypatch):
    gaps = [0.0, 0.0, 0.0, 5.0, 5.0]
    monkeypatch.setattr("sppo_lightning.engines.policy_server.PolicyServer.gap", lambda self, policy: gaps.pop(0))
    two[0].metrics = "nothing 1\n"
    with pytest.warns(UserWarning, match="does not say when the server was started") as warned:
        engine = opened(two[:1], policy, max_logp_gap=0.1)
    with warnings.catch_warnings(action="error"):
        for _ in range(2):
            engine.generate(prompts[:2], [[1]] * 2)
    assert len(warned) == 1
    assert len(gaps) == 2
    with pytest.raises(EngineError, match="answers with other weights"):  # the next one differs, and goes on to
        engine.generate(prompts[:2], [[1]] * 2)


def test_a_restart_that_nothing_would_show_is_refused(two, policy):
    two[0].metrics = "nothing 1\n"
    command = ["true"]
    with pytest.raises(ConfigError, match=r"Set data\.engine\.max_logp_gap"):
        opened(two[:1], policy, refresh="command", command=command)
    with pytest.warns(UserWarning, match="whether it was restarted is not noticed"):
        opened(two[:1], policy)


def test_what_servers_and_commands_say_is_shown_without_the_key(two, policy, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "PLANTED-abc")
    quoting = "no entry for Bearer PLANTED-abc at https://me:PLANTED@host/"
    two[0].answers["/collective_rpc"] = 400, {"error": {"message": quoting}}
    command = [sys.executable, "-c", f"print({quoting!r}); raise SystemExit(3)"]
    for settings in ({"refresh": "reload"}, {"refresh": "command", "command": command}):
        with pytest.raises(EngineError, match=r"no entry for Bearer \*\*\*") as caught:
            opened(two[:1], policy, api_key_env="SOME_KEY", **settings)
        assert "PLANTED" not in str(caught.value)
