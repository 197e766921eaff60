import json

import pytest
import torch
import yaml

from sppo_lightning.__main__ import main
from sppo_lightning.errors import ConfigError, DataError, WaitingForLabels
from sppo_lightning.io.labels import LabelFolder, Task
from sppo_lightning.oracles import Human, Noisy, StyleGame
from sppo_lightning.oracles.pairwise import AskedPairs
from sppo_lightning.oracles.round_judge import RoundJudge

from .examples import candidates

TEXTS = {"q": ["aaa", "a", "aa"], "r": ["b", "bb", "bbb", "bbbb"]}


def label(folder, rule):
    """Labels every open task by a rule on the two texts as they are shown."""
    labels = LabelFolder(folder)
    open_tasks = [task for pair, task in labels.tasks().items() if pair not in labels.labels()]
    for task in open_tasks:
        labels.answer(task.pair, rule(task.first, task.second))
    return len(open_tasks)


def longer(first, second):
    return "first" if len(first) > len(second) else "second"


def test_it_waits_and_then_goes_on(tmp_path):
    oracle, responses = Human(str(tmp_path)), candidates(TEXTS)
    with pytest.raises(WaitingForLabels, match=r"9 of 9 pairs .*tasks\.jsonl have no label yet.*give this comm"):
        oracle.compare(responses)
    assert label(tmp_path, longer) == 9
    matrix = Human(str(tmp_path)).compare(responses)  # another process, another day
    assert matrix.probs_BKJ[0, :3, :3].tolist() == [[0.5, 1, 1], [0, 0.5, 0], [0, 1, 0.5]]
    assert matrix.probs_BKJ[1, 3, :3].tolist() == [1, 1, 1]
    with pytest.raises(WaitingForLabels, match="1 of 2 pairs"):  # only the new text
        oracle.compare(candidates({"q": ["aaa", "new", "a"]}), candidates({"q": ["aaa"]}))


def test_a_label_is_for_the_texts_whatever_their_places(tmp_path):
    oracle = Human(str(tmp_path))
    with pytest.raises(WaitingForLabels):
        oracle.compare(candidates({"q": ["long", "x"]}))
    label(tmp_path, longer)
    assert oracle.compare(candidates({"q": ["x", "long"]})).probs_BKJ[0, 0, 1] == 0
    assert oracle.compare(candidates({"q": ["long"]}), candidates({"q": ["x"]})).probs_BKJ[0, 0, 0] == 1
    with pytest.raises(WaitingForLabels):  # the same texts as answers to another prompt
        oracle.compare(candidates({"another": ["x", "long"]}))


def test_ties_and_skips_and_the_last_word(tmp_path):
    oracle, responses = Human(str(tmp_path)), candidates({"q": ["aaa", "a", "aa"]})
    with pytest.raises(WaitingForLabels):
        oracle.compare(responses)
    label(tmp_path, lambda first, second: "skip" if "aaa" in (first, second) else "tie")
    matrix = oracle.compare(responses)
    assert matrix.judged_BKJ[0].tolist() == [[True, False, False], [False, True, True], [False, True, True]]
    assert matrix.probs_BKJ[0, 1, 2] == 0.5
    assert oracle.measured() == {"position_bias": 0, "labels": 1, "skipped_labels": 2}
    assert oracle.for_round([]).measured() == {"labels": 0, "skipped_labels": 0}
    for pair, task in LabelFolder(tmp_path).tasks().items():
        LabelFolder(tmp_path).answer(pair, longer(task.first, task.second))
    assert bool(oracle.compare(responses).judged_BKJ.all())


def test_a_bias_for_a_side_is_measured(tmp_path):
    oracle, responses = Human(str(tmp_path)), candidates(TEXTS)
    with pytest.raises(WaitingForLabels):
        oracle.compare(responses)
    label(tmp_path, lambda first, second: "first")
    oracle.compare(responses)
    assert oracle.measured()["position_bias"] == 0.5
    shown_first = [task.first < task.second for task in LabelFolder(tmp_path).tasks().values()]
    assert 0 < sum(shown_first) < len(shown_first)


def test_so_many_pairs_at_once_spread_over_prompts_and_responses(tmp_path):
    oracle = Human(str(tmp_path), max_pairs=4)
    with pytest.raises(WaitingForLabels, match="4 of 4 pairs"):
        oracle.compare(candidates(TEXTS))
    label(tmp_path, longer)
    matrix = oracle.compare(candidates(TEXTS))
    judged = [matrix.judged_BKJ[b].triu(1).sum().item() for b in range(2)]
    assert judged == [2, 2]
    compared = matrix.judged_BKJ[1, :4, :4].sum(dim=1)
    assert compared.tolist() == [2, 2, 2, 2]  # with itself and with one other
    # In a round the rest counts as left out, not as failed.
    judge = RoundJudge(oracle, candidates(TEXTS).prompts, seed=1, max_quarantined=0)
    assert torch.equal(judge.compare(candidates(TEXTS)).judged_BKJ, matrix.judged_BKJ)


def test_pairs_that_the_guess_is_least_certain_of_come_first(tmp_path):
    guess = StyleGame(cycle=(0.9, 0.52, 0.8), quality_weight=0)
    responses = candidates({"q": ["Briefly,", "Well,", "Imagine:", "none"]})
    with pytest.raises(WaitingForLabels):
        Human(str(tmp_path), max_pairs=2, guess=guess).compare(responses)
    asked = [{task.first, task.second} for task in LabelFolder(tmp_path).tasks().values()]
    assert asked == [{"Well,", "Imagine:"}, {"Imagine:", "Briefly,"}]  # 0.52, then 0.8


def test_single_pairs_can_be_asked_about(tmp_path):
    oracle = Human(str(tmp_path), max_pairs=1)
    pairs = AskedPairs(candidates({"q": ["aaa", "a", "aa"]})).unique
    with pytest.raises(WaitingForLabels, match="3 of 3"):
        oracle.judge(pairs)
    label(tmp_path, longer)
    assert oracle.judge(pairs) == [float(len(pair.first) > len(pair.second)) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("labels.jsonl", "{", r"labels\.jsonl, line 3: is not JSON"),
        ("labels.jsonl", "[]", r"labels\.jsonl, line 3: must hold one JSON object"),
        ("labels.jsonl", "\udcff", r"labels\.jsonl, line 3: is not JSON"),
        ("labels.jsonl", '{"winner": "first"}', r"labels\.jsonl, line 3: pair must be the name of a task.*got None"),
        ("labels.jsonl", '{"pair": "p0", "winner": "first"}', r"line 3: pair must be the name of a task.*got 'p0'"),
        ("labels.jsonl", '{"pair": "%s", "winner": "left"}' % ("0" * 24), r"line 3: winner must be .*got 'left'"),
        ("labels.jsonl", '{"pair": "%s", "winner": ["first"]}' % ("0" * 24), r"line 3: winner must be"),
        ("labels.jsonl", '{"pair": "%s"}' % ("0" * 24), r"line 3: winner must be .*got None"),
        ("tasks.jsonl", '{"pair": "x"}', r"tasks\.jsonl, line 3: is no task"),
        ("tasks.jsonl", '{"pair": "x", "messages": 3, "first": "a", "second": "b"}', r"line 3: is no task"),
        (
            "tasks.jsonl",
            '{"pair": "x", "messages": [{"role": "user", "content": "q"}], "first": "a", "second": "b"}',
            "line 3: the texts are not those that the pair x was named by",
        ),
    ],
)
def test_malformed_lines_are_named(tmp_path, name, line, said):
    task = Task.of([{"role": "user", "content": "q"}], "a", "b")
    folder = LabelFolder(tmp_path)
    folder.ask([task])
    folder.answer(task.pair, "tie")
    with (tmp_path / name).open("ab") as file:
        file.write(b"\n" + line.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=said):
        Human(str(tmp_path)).check_prompts([])


def test_a_line_without_an_end_is_not_continued(tmp_path):
    folder = LabelFolder(tmp_path)
    tasks = [Task.of([{"role": "user", "content": "q"}], "a", text) for text in "bc"]
    folder.ask(tasks[:1])
    folder.tasks_file.write_bytes(folder.tasks_file.read_bytes().rstrip())
    folder.ask(tasks)
    assert list(folder.tasks().values()) == tasks


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="max_pairs must be at least 1"):
        Human(str(tmp_path), max_pairs=0)


@pytest.fixture
def fit(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    settings = {
        "cpu_threads": 1,
        "trainer": {"accelerator": "cpu", "default_root_dir": "runs/people", "logger": False, "callbacks": []},
        "model": {
            "policy": "package:quickstart/policy",
            "objective": {"class_path": "SPPO", "init_args": {"eta": 6.0}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001}},
        },
        "data": {
            "prompts": "package:quickstart/prompts.jsonl",
            "num_rounds": 2,
            "num_candidates": 3,
            "prompts_per_round": 4,
            "held_out": 0,
            "global_batch_prompts": 4,
            "engine": {"class_path": "Transformers", "init_args": {"max_new_tokens": 12}},
            "oracle": {"class_path": "Human", "init_args": {"folder": "labels", "max_pairs": 8}},
            "truncated": "keep",
            "pairing": {"class_path": "All"},
        },
    }
    (tmp_path / "people.yaml").write_text(yaml.safe_dump(settings))

    def fit():
        code = main(["fit", "--config", "people.yaml"])
        return code, capfd.readouterr().err

    return fit


def test_a_run_stops_as_waiting_and_the_same_command_goes_on(fit, tmp_path):
    for round_index in range(2):
        code, said = fit()
        assert code == 75
        assert said.splitlines()[-1].startswith("waiting for labels: 8 of 8 pairs of responses in labels/tasks.jsonl")
        assert "Traceback" not in said
        assert label(tmp_path / "labels", longer) == 8
        assert not (tmp_path / f"runs/people/rounds/round_00{round_index}/manifest.json").exists()
    code, said = fit()
    assert (code, "waiting" in said) == (0, False)
    manifest = json.loads((tmp_path / "runs/people/rounds/round_001/manifest.json").read_text())
    metrics = manifest.get("metrics") or manifest["content"]["metrics"]
    assert metrics["cost/oracle_queries"] == 8
    assert LabelFolder(tmp_path / "labels").labels().keys() == LabelFolder(tmp_path / "labels").tasks().keys()
    assert Noisy(Human(str(tmp_path / "labels"))).chooses_pairs
