"""A chat model as the judge, on real HTTP servers that behave, and on ones that do not."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import traceback
import warnings

import pytest

from sppo_lightning.errors import BudgetError, ConfigError, OracleError
from sppo_lightning.io import endpoints as endpoints_file
from sppo_lightning.io.ledger import Ledger
from sppo_lightning.oracles import LLMJudge, Pair
from sppo_lightning.oracles.identity import identity
from sppo_lightning.oracles.judging import Judging
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.types import Prompt

from .examples import candidates
from .scripted_server import Reply, ScriptedServer, chat, longer, shown

PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "Why {{ is }} the sky blue?"},))
PAIRS = [Pair(prompt=PROMPT, first="Air.", second=f"Scattering {i}.") for i in range(4)]


@pytest.fixture
def serve():
    """Starts scripted servers and stops them."""
    servers = []

    def start(script, port=0):
        servers.append(ScriptedServer(script, port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoints_file, "_FIRST_PAUSE_S", 0.01)


def judge(server, **settings):
    return LLMJudge("judge", server.url, **{"timeout_s": 20.0, "patience_s": 20.0} | settings)


def failing_once(failure, then=longer):
    """A script whose first request gets `failure`."""
    lock, met = threading.Lock(), []

    def script(request):
        with lock:
            first = not met
            met.append(request)
        return failure if first else then(request)

    return script


# --- a judge that behaves -----------------------------------------------------------------------------------------


def test_both_orders_are_asked_and_averaged(serve):
    server = serve(longer)
    oracle = judge(server, logprobs=False)
    assert oracle.judge(PAIRS) == [0.0] * 4
    assert sorted(map(shown, server.requests)) == sorted(
        texts for pair in PAIRS for texts in [(pair.first, pair.second), (pair.second, pair.first)]
    )
    assert "Why {{ is }} the sky blue?" in server.requests[0]["messages"][-1]["content"]
    measured = oracle.measured()
    assert measured["position_bias"] == 0.0
    assert measured["queries"] == oracle.queries == 8
    assert (measured["prompt_tokens"], measured["completion_tokens"]) == (800, 8)


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({"A": math.log(0.6), "B": math.log(0.2), "The": math.log(0.2)}, 0.75),
        ({"A": math.log(0.5), " A": math.log(0.1), "B": math.log(0.1), " B": math.log(0.1)}, 0.75),
        ({"A": -0.1, "C": -3.0}, 1.0),
    ],
)
def test_probabilities_of_the_letters_are_the_verdict(serve, top, expected):
    server = serve(lambda request: chat("A", top))
    assert judge(server).prefer_first(PAIRS[:1]) == [pytest.approx(expected)]
    assert server.requests[0]["logprobs"] is True


def test_the_letter_is_found_behind_reasoning_and_before_the_terminator(serve, tmp_path):
    def reasons(request):
        reply = chat("First A, then... Verdict: B")
        tokens = ["<think>A</think>", "First", " A", ", then... Verdict:", " B", "<|CHATBOT|>"]
        content = [{"token": token, "logprob": 0.0, "top_logprobs": []} for token in tokens]
        alternatives = {" A": 0.25, " B": 0.75}
        content[4]["top_logprobs"] = [{"token": t, "logprob": math.log(p)} for t, p in alternatives.items()]
        reply.body["choices"][0]["logprobs"] = {"content": content}
        return reply

    (tmp_path / "t.yaml").write_text("user: '{{prompt}} {{first}} {{second}}'\npattern: 'Verdict: ([AB])'")
    oracle = judge(serve(reasons), template=str(tmp_path / "t.yaml"))
    assert oracle.prefer_first(PAIRS[:1]) == [pytest.approx(0.25)]
    assert oracle.measured().get("hard_verdicts") is None


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", 1.0),
        (" b", None),
        ("B.", 0.0),
        ("**A**", 1.0),
        ("[[B]]", 0.0),
        ("Response A", 1.0),
        ("Final verdict: B", 0.0),
        ("The answer is A.", 1.0),
        ("B is better, because A is wrong", 0.0),
        ("A good response would be B", None),
        ("As a language model I cannot choose", None),
        ("Both are good.", None),
        ("C", None),
        ("AB", None),
    ],
)
def test_which_replies_are_verdicts(serve, reply, verdict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert judge(serve(lambda request: chat(reply))).prefer_first(PAIRS[:1]) == [verdict]


def test_work_is_shared_among_servers_and_bounded(serve):
    def slowly(request):
        reply = longer(request)
        reply.hangs_s = 0.05
        return reply

    servers = [serve(slowly), serve(slowly)]
    oracle = LLMJudge("judge", [server.url for server in servers], logprobs=False, max_concurrent=4)
    pairs = [Pair(prompt=PROMPT, first="Air.", second=f"Scattering {i}.") for i in range(20)]
    assert oracle.judge(pairs) == [0.0] * 20
    assert sum(len(server.requests) for server in servers) == 40
    assert all(len(server.requests) >= 10 for server in servers)
    assert all(server.most_busy <= 4 for server in servers)


def test_costs_are_counted(serve):
    prices = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 10.0}
    oracle = judge(serve(longer), logprobs=False, **prices)
    oracle.judge(PAIRS)
    assert oracle.usd == oracle.measured()["usd"] == pytest.approx(8 * (100 * 2.0 + 1 * 10.0) / 1e6)
    assert oracle.usd < sum(oracle.most_usd(pair) for pair in PAIRS) < 20 * oracle.usd
    assert oracle.usd_per_query == pytest.approx((1000 * 2.0 + 16 * 10.0) / 1e6)
    free = judge(serve(longer))
    assert (free.usd, free.most_usd(PAIRS[0]), free.usd_per_query) == (None, None, None)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": "100", "completion_tokens": 1},
        {"prompt_tokens": -100, "completion_tokens": 1},
        {"prompt_tokens": 100, "completion_tokens": None},
        {"prompt_tokens": 100, "completion_tokens": 17},
        {"prompt_tokens": 10**9, "completion_tokens": 1},
        {"prompt_tokens": 100.5, "completion_tokens": True},
    ],
)
def test_a_reply_that_does_not_say_what_it_cost_costs_what_was_booked(serve, tmp_path, usage):
    server = serve(lambda request: Reply(longer(request).body | {"usage": usage}))
    prices = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 10.0}
    oracle = judge(server, logprobs=False, **prices)
    booked = sum(oracle.most_usd(pair) for pair in PAIRS)
    run = tmp_path / "runs" / "run"
    asked = Judging(max_usd=1.5 * booked).keep(oracle, run, "round_000", NullProgress())
    with pytest.warns(UserWarning, match="count as the most that they can cost") as announced:
        asked.judge(PAIRS)
    assert len(announced) == 1
    assert oracle.measured()["unmetered_queries"] == 8
    assert oracle.usd == pytest.approx(booked)
    assert Ledger(run / "judging.json").spent() == (8, pytest.approx(booked))
    more = [Pair(prompt=PROMPT, first="Air!", second=pair.second) for pair in PAIRS]
    with pytest.raises(BudgetError, match="max_usd"):
        asked.judge(more)


def test_both_orders_are_booked_where_a_template_repeats_one_response(tmp_path):
    (tmp_path / "t.yaml").write_text("user: '{{prompt}} {{first}} {{second}} {{second}} {{second}}'")
    prices = {"usd_per_million_input_tokens": 1e6, "usd_per_million_output_tokens": 0.0}
    oracle = LLMJudge("judge", "http://127.0.0.1:1/v1", template=str(tmp_path / "t.yaml"), **prices)
    pair = Pair(prompt=PROMPT, first="a", second="b" * 101)
    assert oracle.most_usd(pair) == oracle.most_usd(pair.swapped)
    assert oracle.most_usd(pair) > 4 * 101


def test_verdicts_are_kept_under_what_decides_them(tmp_path):
    def made(**settings):
        return identity(LLMJudge(**{"model": "judge", "base_url": "http://127.0.0.1:1/v1"} | settings))

    (tmp_path / "t.yaml").write_text("user: '{{prompt}} {{first}} {{second}}'")
    assert made() == made(base_url="http://127.0.0.1:2/v1") == made(api_key_env="KEY", max_concurrent=3)
    assert len({made(), made(model="other"), made(max_tokens=7), made(template=str(tmp_path / "t.yaml"))}) == 4
    before = made(template=str(tmp_path / "t.yaml"))
    (tmp_path / "t.yaml").write_text("user: '{{prompt}} or {{first}} or {{second}}'")
    assert made(template=str(tmp_path / "t.yaml")) != before


def test_a_template_of_ones_own(serve, tmp_path):
    template = tmp_path / "template.yaml"
    template.write_text("user: '{{ prompt }}: {{ first }} against {{ second }}'\npattern: 'winner=(A|B)'\n")
    server = serve(lambda request: chat("A? no: winner=B"))
    assert judge(server, template=str(template), logprobs=False).prefer_first(PAIRS[:1]) == [0.0]
    assert [message["role"] for message in server.requests[0]["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("user: '{{ prompt }} {{ first }}'", "does not show {{ second }}"),
        ("user: '{{ reply }}'", "'reply' is undefined"),
        ("user: '{{ first'", "cannot be filled in"),
        ("system: x", "has no key `user`"),
        ("user: '{{prompt}} {{first}} {{second}}'\npattern: '['", "not a regular expression"),
        ("user: '{{prompt}} {{first}} {{second}}'\npattern: 'A|B'", "needs a group"),
        ("user: '{{prompt}} {{first}} {{second}}'\nusr: x", "nothing else"),
        (": : :", "is not YAML"),
    ],
)
def test_a_template_that_cannot_work_is_refused(tmp_path, text, complaint):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        LLMJudge("judge", "http://127.0.0.1:1/v1", template=str(tmp_path / "t.yaml"))
    assert complaint in str(caught.value)
    assert "t.yaml" in str(caught.value)


# --- judges that misbehave: what passes is waited out --------------------------------------------------------------

ERROR = {"error": {"message": "no", "type": "server_error", "code": None}}
PASSES = {
    "429": (Reply(ERROR, 429, {"Retry-After": "0.2"}), "rate limit"),
    "429 without a time": (Reply(ERROR, 429), "rate limit"),
    "500": (Reply(ERROR, 500), "server error"),
    "503": (Reply(ERROR, 503), "server down"),
    "not JSON": (Reply(raw=b'{"choices": [{"mess'), "malformed answer"),
    "JSON of something else": (Reply({"hello": "world"}), "malformed answer"),
    "a list": (Reply([1, 2]), "malformed answer"),
    "two choices": (Reply({**chat("A").body, "choices": chat("A").body["choices"] * 2}), "malformed answer"),
    "no choices": (Reply({**chat("A").body, "choices": []}), "malformed answer"),
    "a choice that is none": (Reply({**chat("A").body, "choices": [None]}), "malformed answer"),
    "a message that is a text": (Reply({**chat("A").body, "choices": [{"message": "A"}]}), "malformed answer"),
    "a message that is a list": (Reply({**chat("A").body, "choices": [{"message": ["A"]}]}), "malformed answer"),
    "a text that is a list": (chat(["A"]), "malformed answer"),
    "a choice without a message": (Reply({**chat("A").body, "choices": [{"index": 0}]}), "malformed answer"),
    "cut off": (Reply(chat("A").body, cut=True), "server down"),
    "byte by byte": (Reply(chat("A").body, drips_s=0.05), "time-out"),
    "too slow": (Reply(chat("A").body, hangs_s=2.0), "time-out"),
}


@pytest.mark.parametrize("case", PASSES)
def test_what_passes_is_waited_out_and_counted(serve, case):
    failure, name = PASSES[case]
    server = serve(failing_once(failure))
    oracle = judge(server, logprobs=False, timeout_s=1.0 if name == "time-out" else 20.0)
    with warnings.catch_warnings(record=True) as announced:
        warnings.simplefilter("always")
        assert oracle.judge(PAIRS) == [0.0] * 4
    assert oracle.measured()["retries"] >= 1
    assert oracle._endpoints.troubles[name] >= 1
    assert oracle.queries == 8
    assert len(server.requests) == 8 + oracle._endpoints.troubles.total()
    if name in ("rate limit", "server down"):
        assert any("trying again" in str(warning.message) for warning in announced)


def test_a_server_that_is_gone_comes_back(serve):
    first = serve(longer)
    port = first.port
    oracle = judge(first, logprobs=False)
    assert oracle.judge(PAIRS[:1]) == [0.0]
    first.stop()
    threading.Timer(1.0, lambda: serve(longer, port)).start()
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert oracle.judge(PAIRS) == [0.0] * 4


def test_a_server_that_is_gone_leaves_its_work_to_the_others(serve):
    gone, here = serve(longer), serve(longer)
    gone.stop()
    oracle = LLMJudge("judge", [gone.url, here.url], logprobs=False, patience_s=20.0)
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert oracle.judge(PAIRS) == [0.0] * 4
    assert len(here.requests) == 8


def test_a_server_that_only_fails_leaves_its_work_to_the_others(serve):
    def slowly(request):
        reply = longer(request)
        reply.hangs_s = 0.1
        return reply

    broken, here = serve(lambda request: Reply(ERROR, 500)), serve(slowly)
    oracle = LLMJudge("judge", [broken.url, here.url], logprobs=False, max_concurrent=4)
    pairs = [Pair(prompt=PROMPT, first="Air.", second=f"Scattering {i}.") for i in range(20)]
    with pytest.warns(UserWarning, match="HTTP 500: no; trying again"):
        assert oracle.judge(pairs) == [0.0] * 20
    assert len(here.requests) == 40
    assert 3 <= len(broken.requests) < 40, "it rests"


def test_a_server_that_takes_no_connection_leaves_its_work_to_the_others(serve, monkeypatch):
    monkeypatch.setattr(endpoints_file, "_GLANCE_S", 0.3)
    here = serve(longer)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        urls = [f"http://127.0.0.1:{full.getsockname()[1]}/v1", here.url]
        with pytest.warns(UserWarning, match="no connection in time"):
            assert LLMJudge("judge", urls, logprobs=False, patience_s=20.0).judge(PAIRS) == [0.0] * 4
        for client in waiting:
            client.close()


# --- what does not pass stops the run, or leaves one pair without a verdict ----------------------------------------

STOPS = {
    "401": (Reply({"error": {"message": "bad key"}}, 401), "bad key"),
    "404": (Reply({"error": {"message": "no model judge"}}, 404), "no model judge"),
    "quota": (Reply({"error": {"message": "pay", "code": "insufficient_quota"}}, 429), "pay"),
    "500 for ever": (Reply(ERROR, 500), "failed 5 times"),
    "400 for everything": (Reply({"error": {"message": "unknown field logprobs"}}, 400), "unknown field logprobs"),
    "asks for an hour": (Reply(ERROR, 429, {"Retry-After": "3600"}), "it asks to wait 3600 s"),
    "429 for ever": (Reply(ERROR, 429), "gave up"),
    "never a verdict": (chat("I would rather not say."), "I would rather not say."),
}


@pytest.mark.parametrize("case", STOPS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_does_not_pass_stops_with_what_the_server_said(serve, case):
    reply, said = STOPS[case]
    with pytest.raises(OracleError) as caught:
        judge(serve(lambda request: reply), patience_s=1.0).judge(PAIRS)
    assert said in str(caught.value)
    assert "LLMJudge" in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nobody_there_stops_when_patience_ends(serve):
    server = serve(longer)
    server.stop()
    with pytest.raises(OracleError, match=r"gave up on http://127\.0\.0\.1:\d+/v1.*data\.oracle\.patience_s is 1 s"):
        judge(server, patience_s=1.0).judge(PAIRS)


NO_VERDICT = {
    "refusals": chat(None, refusal="I will not judge this."),
    "empty_replies": chat(""),
    "unparsable_replies": chat("Both have merits."),
    "broken_logprobs": chat("A", {"A": math.nan, "B": -1.0}),
    "refused_requests": Reply({"error": {"message": "too long"}}, 400),
}


@pytest.mark.parametrize("kind", NO_VERDICT)
def test_a_reply_without_a_verdict_leaves_its_pair_unjudged_and_is_counted(serve, kind):
    oracle = judge(serve(lambda request: NO_VERDICT[kind] if "bad" in shown(request) else longer(request)))
    with pytest.warns(UserWarning, match=kind.replace("_", " ")):
        matrix = oracle.compare(candidates({"q": ["bad", "ok then", "ok"]}))
    assert matrix.judged_BKJ[0].tolist() == [[True, False, False], [False, True, True], [False, True, True]]
    assert matrix.probs_BKJ[0, 1, 2] == 1.0
    assert oracle.measured()[kind] == 4
    assert oracle.measured()["failed_pairs"] == 2


@pytest.mark.parametrize(
    "content",
    [
        7,
        [None],
        [{"token": "A", "top_logprobs": [None]}],
        [{"token": "A", "top_logprobs": 7}],
        [{"token": "A", "bytes": [999], "top_logprobs": []}],
        [{"token": "A", "bytes": "A", "top_logprobs": []}],
        [{"token": "A", "top_logprobs": [{"token": "A", "logprob": -(10**400)}]}],
        [{"token": "A", "top_logprobs": [{"token": "A"}]}],
    ],
)
def test_probabilities_of_an_odd_shape_are_no_verdict(serve, content):
    reply = chat("A")
    reply.body["choices"][0]["logprobs"] = {"content": content}
    oracle = judge(serve(lambda request: reply))
    with pytest.warns(UserWarning, match="broken logprobs"):
        assert oracle.prefer_first(PAIRS[:1]) == [None]
    assert oracle.measured()["broken_logprobs"] == 1


@pytest.mark.parametrize("kind", ["refused_requests", "unparsable_replies"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_last_pairs_that_get_no_verdict_do_not_hold_up_a_run_for_ever(serve, tmp_path, kind):
    server = serve(lambda request: NO_VERDICT[kind] if "Air." in shown(request) else longer(request))
    oracle = judge(server, logprobs=False).for_round([])
    asked = Judging().keep(oracle, tmp_path / "runs" / "run", "round_000", NullProgress())
    assert asked.judge(PAIRS) == [None] * 4
    assert len(server.requests) == 8 + 1, "an easy pair shows that the judge is able"
    assert oracle.measured()[kind] == 8
    assert asked.judge(PAIRS) == [None] * 4
    assert len(server.requests) == 8 + 1


def test_one_request_that_always_fails_leaves_its_pair_unjudged(serve):
    def script(request):
        reply = Reply(ERROR, 500) if "bad" in shown(request) else longer(request)
        reply.hangs_s = 0.1  # so that others are answered meanwhile
        return reply

    oracle = judge(serve(script), max_concurrent=1, logprobs=False)
    oracle.judge(PAIRS[:1])
    texts = ["bad", *(f"fine {i}" for i in range(5))]
    pairs = [Pair(prompt=PROMPT, first=texts[0], second=text) for text in texts[1:2]]
    fine = [Pair(prompt=PROMPT, first="ok", second=text) for text in texts[2:]]
    oracle._endpoints.settings.__dict__["max_concurrent"] = 8
    with pytest.warns(UserWarning, match="refused requests"):
        assert oracle.judge([*pairs, *fine])[0] is None


def kept_by_a_run(tmp_path, oracle, **judging):
    return Judging(**judging).keep(oracle, tmp_path / "runs" / "run", "round_000", NullProgress())


def test_what_was_answered_before_the_servers_stop_is_kept_and_paid_for_once(serve, tmp_path):
    refused = Reply({"error": {"message": "no"}}, 401)
    server = serve(longer)
    prices = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 10.0}
    oracle = judge(server, logprobs=False, max_concurrent=1, **prices)
    pairs = [PAIRS[0], PAIRS[1], PAIRS[3], PAIRS[2]]  # all as shown, then all swapped; the last reply is the stop
    server.script = lambda request: (
        refused if "Scattering 2." in shown(request) and len(server.requests) > 4 else longer(request)
    )
    with pytest.raises(OracleError, match="HTTP 401"):
        kept_by_a_run(tmp_path, oracle).judge(pairs)
    assert len(server.requests) == 8
    ledger = Ledger(tmp_path / "runs" / "run" / "judging.json")
    assert ledger.spent() == (8, pytest.approx(oracle.usd + oracle.most_usd(PAIRS[2])))
    server.script = longer
    assert kept_by_a_run(tmp_path, oracle).judge(pairs) == [0.0] * 4
    assert [("Scattering 2." in shown(request)) for request in server.requests[8:]] == [True, True]


def test_a_judge_that_changes_its_name_leaves_the_verdicts_of_the_first_one(serve, tmp_path):
    names = iter(["judge-1"] * 5 + ["judge-2"] * 3 + ["judge-1"] * 9)
    server = serve(lambda request: Reply(longer(request).body | {"model": next(names)}))
    oracle = judge(server, logprobs=False, max_concurrent=1)
    with pytest.raises(OracleError, match="'judge-1' and now as 'judge-2'"):
        kept_by_a_run(tmp_path, oracle).judge(PAIRS)
    # The fifth reply was on the first pair the other way round.
    assert kept_by_a_run(tmp_path, oracle).judge(PAIRS) == [0.0] * 4
    assert len(server.requests) == 8 + 6
    assert not [request for request in server.requests[8:] if "Scattering 0." in shown(request)]


def test_position_bias_is_a_number(serve):
    oracle = judge(serve(lambda request: chat("A")), logprobs=False)
    assert oracle.judge(PAIRS) == [0.5] * 4
    assert oracle.measured()["position_bias"] == 0.5


def test_missing_probabilities_are_announced_once(serve):
    oracle = judge(serve(longer))
    with pytest.warns(UserWarning, match="gave no probabilities") as announced:
        oracle.judge(PAIRS)
    assert len([w for w in announced if "probabilities" in str(w.message)]) == 1
    assert oracle.measured()["hard_verdicts"] == 8


def test_an_answer_by_another_name_is_announced(serve):
    with pytest.warns(UserWarning, match="'judge' was asked and 'other' answered"):
        judge(serve(lambda request: chat("A", model="other"))).judge(PAIRS)


def test_a_judge_that_changes_its_name_stops_the_run(serve):
    names = iter(["judge-2026-05", "judge-2026-05", "judge-2026-09", "judge-2026-09"])
    oracle = judge(serve(lambda request: chat("A", model=next(names))), max_concurrent=1, logprobs=False)
    oracle.for_round([]).judge(PAIRS[:1])
    with pytest.raises(OracleError, match=r"'judge-2026-05' and now as 'judge-2026-09'"):
        oracle.for_round([]).judge(PAIRS[:1])


# --- keys ----------------------------------------------------------------------------------------------------------

KEY = "PLANTED-judge-key-that-no-shape-gives-away"


def test_the_key_is_read_from_the_environment_and_nowhere_to_be_seen(serve, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "PLANTED-other")
    server = serve(longer)
    judge(server, api_key_env="JUDGE_API_KEY", logprobs=False).judge(PAIRS)
    assert set(server.keys) == {f"Bearer {KEY}"}
    judge(server, logprobs=False).judge(PAIRS)
    assert server.keys[-1] == "Bearer none"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_a_server_that_quotes_the_key_does_not_get_it_into_an_error(serve, monkeypatch, status, recwarn):
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    server = serve(lambda request: Reply({"error": {"message": f"bad key: {KEY}"}}, status))
    oracle = judge(server, api_key_env="JUDGE_API_KEY", patience_s=0.3)
    with pytest.raises(OracleError) as caught:
        oracle.judge(PAIRS)
    assert "bad key: ***" in str(caught.value)
    shown_anywhere = [str(warning.message) for warning in recwarn]
    shown_anywhere += ["".join(traceback.format_exception(caught.value)), repr(vars(oracle))]
    assert not any(KEY in text for text in shown_anywhere)


def test_a_server_that_answers_with_the_key_does_not_get_it_into_a_message(serve, monkeypatch, recwarn):
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    server = serve(lambda request: chat(f"Your key: {KEY}", model=f"judge-{KEY}"))
    with pytest.raises(OracleError, match=r"none of 9 replies .* 'Your key: \*\*\*'") as never:
        judge(server, api_key_env="JUDGE_API_KEY").judge(PAIRS)
    server.script = lambda request: chat("A", model=f"{request['max_completion_tokens']}-{KEY}")
    oracle = judge(server, api_key_env="JUDGE_API_KEY")
    oracle.prefer_first(PAIRS[:1])
    server.script = lambda request: chat("A", model=f"other-{KEY}")
    with pytest.raises(OracleError, match=r"'16-\*\*\*' and now as 'other-\*\*\*'") as changed:
        oracle.prefer_first(PAIRS[:1])
    server.model = f"m-{KEY}"
    with pytest.raises(ConfigError, match=r"has no model 'judge', it has m-\*\*\*") as listed:
        judge(server, api_key_env="JUDGE_API_KEY").check_prompts([PROMPT])
    said = [str(caught.value) for caught in (never, changed, listed)] + [str(warning.message) for warning in recwarn]
    assert not any(KEY in text for text in said)


def test_a_key_that_is_not_set_is_missed_before_anything_is_asked(serve, monkeypatch):
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    server = serve(longer)
    with pytest.raises(ConfigError, match="JUDGE_API_KEY is not set"):
        judge(server, api_key_env="JUDGE_API_KEY").check_prompts([PROMPT])
    monkeypatch.setenv("JUDGE_API_KEY", f"{KEY} two\nlines")
    with pytest.raises(ConfigError, match="cannot be an API key") as caught:
        judge(server, api_key_env="JUDGE_API_KEY").check_prompts([PROMPT])
    assert KEY not in str(caught.value)
    assert not server.requests


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"api_key_env": "sk-PLANTED-0123456789abcdef"}, "must be the name of an environment variable"),
        ({"base_url": "http://me:PLANTED@127.0.0.1/v1"}, "neither credentials nor a query"),
        ({"base_url": "http://127.0.0.1/v1?api_key=PLANTED"}, "neither credentials nor a query"),
        ({"base_url": "127.0.0.1:8000/v1"}, "is not an address"),
        ({"base_url": []}, "is empty"),
        ({"base_url": ["http://a/v1", "http://a/v1/"]}, "names an address twice"),
        ({"max_concurrent": 0}, "max_concurrent must be more than 0"),
        ({"timeout_s": 0.0}, "timeout_s must be more than 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"usd_per_million_input_tokens": 1.0}, "go together"),
        ({"extra_body": {"max_tokens": 9, "messages": [], "seed": 1}}, "extra_body must not set max_tokens, messages"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_a_secret(settings, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        LLMJudge(**{"model": "judge", "base_url": "http://127.0.0.1:1/v1"} | settings)
    assert "PLANTED" not in str(caught.value)


def test_the_server_is_looked_at_before_anything_is_generated(serve):
    server = serve(longer)
    judge(server).check_prompts([PROMPT])
    with pytest.raises(ConfigError, match=r"data\.oracle\.model.*has no model 'gpt-9', it has judge"):
        LLMJudge("gpt-9", server.url).check_prompts([PROMPT])
    server.stop()
    with pytest.warns(UserWarning, match="does not say now"):
        judge(server).check_prompts([PROMPT])


def test_a_run_that_its_judge_turns_away_leaves_no_trace_of_the_key(serve, tmp_path):
    """The real command; the server quotes the key, first in an error that passes, in the end in one that does not."""
    replies = iter([500, 200, 200, 200, 200])

    def script(request):
        status = next(replies, 401)
        if status == 200:
            return longer(request)
        return Reply({"error": {"message": f"Authorization: Bearer {KEY} / key={KEY}"}}, status)

    server = serve(script)
    command = [sys.executable, "-m", "sppo_lightning", "fit", "--config", "configs/quickstart.yaml"]
    command += ["--data.oracle", "LLMJudge", "--data.oracle.model", "judge", "--data.oracle.base_url", server.url]
    command += ["--data.oracle.api_key_env", "JUDGE_API_KEY", "--data.oracle.max_concurrent", "1"]
    command += ["--data.num_rounds", "1", "--data.prompts_per_round", "4", "--data.num_candidates", "2"]
    command += ["--data.held_out", "2", "--data.engine.max_new_tokens", "8", "--data.global_batch_prompts", "2"]
    environment = os.environ | {"JUDGE_API_KEY": KEY}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=600
    )
    assert run.returncode == 2, run.stderr
    assert "HTTP 401: Authorization: Bearer ***" in run.stderr
    assert "environment variable JUDGE_API_KEY" in run.stderr
    assert KEY not in run.stdout + run.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "mlflow.db"} <= {path.name for path in written}
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    config = next(path for path in written if path.name == "config.yaml").read_text(encoding="utf-8")
    assert "api_key_env: JUDGE_API_KEY" in config
    assert set(server.keys) == {f"Bearer {KEY}"}
