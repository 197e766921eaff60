import json

import pytest

from sppo_lightning.errors import DataError
from sppo_lightning.reporting.record import read_run


def test_a_whole_run(finished_run):
    run = read_run(finished_run.root)
    assert run.rounds == [0, 1, 2]
    for name in ("round/win_rate_vs_start", "gap/best_of_n", "round/winner_log_ratio", "cost/oracle_queries"):
        assert run.metrics[name] == finished_run.metrics(name)
    held_out = {prompt.text for prompt in finished_run.data.held_out_prompts}
    assert {example.prompt for example in run.examples} == held_out
    assert list(run.examples[0].answers) == ["start", "round_000", "round_001", "round_002"]
    assert set(run.token_ratios) == {0, 1, 2}
    assert run.payoff["names"][0] == "start"
    assert sum(run.mixture["members"].values()) == pytest.approx(1)
    assert run.unreadable == ()


def test_metrics_are_finite_numbers_with_a_prefix_also_within_a_file(run_folder):
    content = {"round/a": 1, "metrics": {"gap/b": 0.5}, "round/nan": float("nan"), "name": 3, "round/text": "x"}
    run = read_run(run_folder(**{"eval/round_004/gaps.json": json.dumps(content)}))
    assert run.metrics == {"round/a": {4: 1.0}, "gap/b": {4: 0.5}}


def test_a_run_that_has_just_begun(run_folder):
    run = read_run(run_folder(**{"config.yaml": "model:\n  class_path: M\n  init_args:\n    policy: p\n"}))
    assert run.settings["model.policy"] == "p"
    assert (run.rounds, run.examples, run.payoff, run.mixture) == ([], (), {}, {})


def test_damaged_files_are_named_and_the_rest_is_read(run_folder):
    folder = run_folder(
        metrics={"round/a": {0: 1.0}},
        **{
            "config.yaml": "a: [",
            "eval/round_000/text.json": "{",
            "exports/mixture.json": '{"members": {}}',
            "eval/prompt_sets/held_out-1.parquet": "no",
        },
    )
    run = read_run(folder)
    assert run.metrics == {"round/a": {0: 1.0}}
    for name in ("config.yaml", "text.json", "mixture.json", "held_out-1.parquet"):
        assert sum(name in problem for problem in run.unreadable) == 1


@pytest.mark.parametrize("kind", ["missing", "file", "other folder"])
def test_what_is_no_run_folder(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("")
    elif kind == "other folder":
        path.mkdir()
    with pytest.raises(DataError, match="run folder"):
        read_run(path)
