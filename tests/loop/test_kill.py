"""SIGKILL to real training processes: the same command goes on, and nothing tells that it was ever killed."""

import json
import os
import shutil
import signal
import time

import pytest

from sppo_lightning.io.files import TEMPORARY_SUFFIX

from .comparison import differences, history, mlflow_runs
from .harness import Run, finished_work, made_again

# One place of each kind; `benchmarks/kill_series.py` kills at every occurrence of every point that a run passes.
POINTS = [
    # the run begins
    "before_rename:run:1",
    "after_mlflow_run:1",
    "after_rename:config:1",
    # a round is played
    "after_rename:prompts:1",
    "after_rename:round_settings:2",
    "before_rename:candidates:2",
    "after_rename:candidates:3",
    "before_stage:judge:1",
    "after_rename:preferences:5",
    "after_rename:targets:1",
    "before_rename:pairs:2",
    "before_write:reference_logps:4",
    "before_rename:manifest:1",
    "after_rename:manifest:2",
    # it is trained on
    "after_optimizer_step:1",
    "after_step_metrics:4",
    "before_rename:checkpoint:1",
    "after_rename:checkpoint:3",
    # it ends
    "before_rename:export:1",
    "after_rename:export:2",
    "before_rename:held_out_responses:2",
    "after_rename:evaluation:1",
    "before_epoch_checkpoint:2",
    "before_rename:checkpoint:4",
    # the run ends
    "before_write:run:4",
]
HISTORY = (
    *("--data.opponent", "History", "--model.objective", "INPO", "--model.objective.eta", "6.0"),
    *("--model.objective.tau", "0.05", "--model.reset_optimizer", "never"),
)
HISTORY_POINTS = [
    "before_rename:opponents:2",
    "after_rename:preferences:8",
    "after_rename:reference_logps:9",
    "after_optimizer_step:6",
]


def killed_and_finished(run, point):
    """Kills an attempt at the point and gives the same command again; what was finished must not be made again."""
    assert run.fit(crash_at=point).was_killed, "the point was never passed"
    finished = finished_work(run.folder)
    last = run.fit()
    assert last.code == 0, last.output[-3000:]
    assert made_again(finished, run.folder) == []


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_leaves_no_trace(point, new_run, unbroken):
    run = new_run()
    killed_and_finished(run, point)
    assert differences(run, unbroken) == []


@pytest.fixture(scope="module")
def unbroken_history(make_unbroken):
    """An unbroken run in which round 1 has an earlier policy as opponent and two frozen policies."""
    return make_unbroken(*HISTORY)


@pytest.mark.parametrize("point", HISTORY_POINTS)
def test_a_kill_amid_earlier_policies_leaves_no_trace(point, new_run, unbroken_history):
    run = new_run(*HISTORY)
    killed_and_finished(run, point)
    assert differences(run, unbroken_history) == []


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_times_leave_no_trace(seed, new_run, unbroken):
    run = new_run()
    kills, again = run.fit_with_random_kills(seed, unbroken.attempts[0].cpu_s)
    assert kills > 0
    assert again == []
    assert differences(run, unbroken) == []


@pytest.mark.parametrize("point", ["before_rename:mlflow_database:1", "after_rename:mlflow_database:1"])
def test_a_kill_while_mlflows_database_is_made(point, new_run, unbroken):
    run = new_run()
    run.database.unlink()
    killed_and_finished(run, point)
    assert differences(run, unbroken) == []
    assert list(run.parent.glob(f".*{TEMPORARY_SUFFIX}*")) == []


def test_two_runs_that_begin_at_once_share_one_new_database(launcher, tmp_path):
    runs = [Run(launcher, tmp_path, name=name) for name in ("first", "second")]
    attempts = [run.start("--data.stop_after", "play") for run in runs]
    assert [launcher.wait(process_id)[0] for process_id, _ in attempts] == [0, 0]
    recorded = {(entry.info.run_name, entry.info.status) for entry in mlflow_runs(runs[0])}
    assert recorded == {("first", "FINISHED"), ("second", "FINISHED")}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_says_that_it_goes_on(number, code, new_run, unbroken):
    run = new_run()
    process_id, output = run.start()
    while not (run.folder / "rounds" / "round_001" / "candidates").is_dir():
        time.sleep(0.01)
    os.kill(process_id, number)
    assert run.launcher.wait(process_id)[0] == code
    assert "the same command goes on" in output.read_text().splitlines()[-1]
    assert run.fit().code == 0
    assert differences(run, unbroken) == []


def test_training_time_is_counted_over_the_processes_of_a_round(new_run):
    run = new_run()
    began = time.monotonic()
    killed_and_finished(run, "after_rename:checkpoint:1")
    elapsed_s = time.monotonic() - began
    assert all(0 < value < elapsed_s for _, value in history(run)["time/train"])


def test_a_finished_run_says_so_and_changes_no_file(unbroken):
    before = unbroken.contents()
    times = {path: path.stat().st_mtime_ns for path in unbroken.folder.rglob("*") if path.name != "run.lock"}
    attempt = unbroken.fit()
    assert attempt.code == 0
    assert "is finished: 2 rounds" in attempt.output
    assert unbroken.contents() == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_more_rounds_go_on_where_a_finished_run_ended(new_run, unbroken, tmp_path):
    longer = new_run("--data.num_rounds", "3")
    assert longer.fit().code == 0
    extended = unbroken.copied_to(tmp_path / "extended")
    finished = finished_work(extended.folder)
    assert extended.fit("--data.num_rounds", "3").code == 0
    assert made_again(finished, extended.folder) == []
    # run.json keeps the settings that the run began with.
    assert differences(extended, longer) == ["differs: run.json"]


@pytest.mark.parametrize(("stop_after", "stops"), [("play", 2), ("round", 1)])
def test_a_run_that_pauses_ends_like_one_that_does_not(stop_after, stops, new_run, unbroken):
    run = new_run("--data.stop_after", stop_after)
    for stop in range(stops):
        attempt = run.fit()
        assert attempt.code == 0
        assert len(list(run.folder.glob("exports/round_*"))) == (stop if stop_after == "play" else stop + 1)
        assert "finished_rounds" not in json.loads((run.folder / "run.json").read_text())
        assert [entry.info.status for entry in mlflow_runs(run)] == ["FINISHED"]
    assert run.fit().code == 0
    assert differences(run, unbroken) == ["differs: run.json"]


def test_without_our_callbacks_the_weights_of_each_round_are_bit_identical(new_run, unbroken):
    run = new_run("--trainer.callbacks", "[]")
    assert run.fit().code == 0
    for index in range(2):
        weights = f"exports/round_{index:03d}/model.safetensors"
        assert (run.folder / weights).read_bytes() == (unbroken.folder / weights).read_bytes()
    assert not (run.folder / "eval").exists()


def test_rounds_on_disk_are_trained_again_when_the_checkpoint_is_gone(new_run, unbroken):
    run = new_run()
    assert run.fit(crash_at="after_rename:checkpoint:4").was_killed
    finished = finished_work(run.folder)
    shutil.rmtree(run.folder / "checkpoints")
    assert run.fit().code == 0
    assert made_again(finished, run.folder) == []
    assert differences(run, unbroken) == []
