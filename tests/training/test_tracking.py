"""Every test writes to a real SQLite store; processes that die are real, forked ones."""

import base64
import csv
import http.server
import json
import math
import os
import shutil
import signal
import sqlite3
import sys
import threading
from pathlib import Path

import mlflow
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.training.tracking import RunLogger
from sppo_lightning.training.tracking_uri import redact, run_page


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty database, made once: MLflow's first migration takes two seconds."""
    folder = tmp_path_factory.mktemp("store")
    RunLogger(folder / "run")
    return folder / "mlflow.db"


@pytest.fixture
def folder(empty_store, tmp_path, monkeypatch):
    """A run folder beside an empty store, with the process standing somewhere else."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    runs.mkdir()
    elsewhere.mkdir()
    shutil.copy(empty_store, runs / "mlflow.db")
    monkeypatch.chdir(elsewhere)
    return runs / "quick start"


def history(logger, key):
    return [(metric.step, metric.value) for metric in logger.experiment.get_metric_history(logger.run_id, key)]


def artifact(logger, path):
    return Path(logger.experiment.download_artifacts(logger.run_id, path)).read_text()


def status(logger):
    return logger.experiment.get_run(logger.run_id).info.status


def in_a_process_that_dies(work):
    """Runs `work()` in a forked process, which must end by SIGKILL."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(77)
    _, ended = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(ended), f"the process ended by itself: {os.waitstatus_to_exitcode(ended)}"
    assert os.WTERMSIG(ended) == signal.SIGKILL


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_everything_lies_beside_the_run_folder(folder):
    logger = RunLogger(folder)
    logger.log_metrics({"train/loss": 0.5}, 0)
    logger.log_text("a: 1", "config.yaml")
    run = logger.experiment.get_run(logger.run_id)
    assert logger.tracking_uri == f"sqlite:///{folder.parent}/mlflow.db"
    assert run.info.run_name == "quick start"
    assert logger.experiment.get_experiment(logger.experiment_id).name == "sppo_lightning"
    assert (folder.parent / "mlflow_artifacts" / logger.run_id / "artifacts" / "config.yaml").read_text() == "a: 1"
    assert list(Path.cwd().iterdir()) == []  # the current folder: no ./mlruns, no ./mlflow.db
    assert logger.save_dir == str(folder)
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_kill_between_calls_leaves_no_gap_and_no_repeat(folder):
    num_steps = 12
    run_id = folder.parent / "run_id"

    def attempt(start, stop):
        logger = RunLogger(folder, run_id.read_text() if run_id.exists() else None)
        run_id.write_text(logger.run_id)
        for step in range(start, stop):
            logger.log_metrics({"train/loss": 1.0 / (step + 1), "train/win rate": 0.5}, step)
            if step % 4 == 0:
                logger.log_metrics({"round/gap": float(step)}, step)
        die()

    # Each attempt goes on from a checkpoint some steps before the kill of the one before; the last redoes everything.
    for start, stop in [(0, 5), (3, 6), (2, 6), (6, 11), (9, num_steps), (0, num_steps)]:
        in_a_process_that_dies(lambda start=start, stop=stop: attempt(start, stop))

    logger = RunLogger(folder, run_id.read_text())
    assert history(logger, "train/loss") == [(step, 1.0 / (step + 1)) for step in range(num_steps)]
    assert history(logger, "train/win rate") == [(step, 0.5) for step in range(num_steps)]
    assert history(logger, "round/gap") == [(0, 0.0), (4, 4.0), (8, 8.0)]
    assert len(logger.experiment.search_runs([logger.experiment_id])) == 1


class LogThenSave(Callback):
    """Logs each step, saves after every third, and kills the process at one point of one step."""

    def __init__(self, checkpoint, dies_at=None):
        self.checkpoint, self.dies_at = checkpoint, dies_at

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        # Lightning's own lines are written after this hook, too late for a checkpoint made here.
        step = trainer.global_step - 1
        self.reach(step, "before the log")
        for logger in trainer.loggers:
            logger.log_metrics({"train/loss": outputs["loss"]}, step)
        self.reach(step, "before the checkpoint")
        if step % 3 == 2:
            trainer.save_checkpoint(self.checkpoint)
        self.reach(step, "after the checkpoint")

    def reach(self, *point):
        if point == self.dies_at:
            die()


def fit(logger, checkpoint, dies_at=None, num_steps=10, model=None):
    trainer = Trainer(
        max_steps=num_steps,
        logger=logger,
        callbacks=[LogThenSave(checkpoint, dies_at)],
        limit_val_batches=0,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model or BoringModel(), ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    return trainer


@pytest.mark.parametrize("point", ["before the log", "before the checkpoint", "after the checkpoint"])
@pytest.mark.parametrize("step", [5, 7])
def test_a_trainer_killed_and_resumed_logs_every_step_once(folder, step, point):
    checkpoint, run_id = folder.parent / "last.ckpt", folder.parent / "run_id"

    def first_attempt():
        logger = RunLogger(folder)
        run_id.write_text(logger.run_id)
        fit(logger, checkpoint, dies_at=(step, point))

    in_a_process_that_dies(first_attempt)
    logger = RunLogger(folder, run_id.read_text())
    before = history(logger, "train/loss")
    assert [step for step, _ in before] == list(range(step if point == "before the log" else step + 1))
    assert status(logger) == "RUNNING"
    trainer = fit(logger, checkpoint)
    after = history(logger, "train/loss")
    assert [step for step, _ in after] == list(range(10))
    assert after[: len(before)] == before
    assert status(logger) == "FINISHED"
    assert trainer.log_dir == str(folder)


def test_two_loggers_in_one_trainer(folder, tmp_path):
    mine, plain = RunLogger(folder), CSVLogger(tmp_path)
    fit([mine, plain], tmp_path / "last.ckpt", num_steps=3)
    with (Path(plain.log_dir) / "metrics.csv").open() as file:
        written = [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file)]
    assert history(mine, "train/loss") == written
    assert [step for step, _ in written] == [0, 1, 2]


def test_two_runs_share_a_store_without_mixing(folder):
    one, two = RunLogger(folder), RunLogger(folder.parent / "another")
    for step in range(3):
        one.log_metrics({"train/loss": 1.0}, step)
        two.log_metrics({"train/loss": 2.0}, step)
    assert one.run_id != two.run_id
    assert one.experiment_id == two.experiment_id
    assert history(one, "train/loss") == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert history(two, "train/loss") == [(0, 2.0), (1, 2.0), (2, 2.0)]


def test_a_repeat_in_one_process_keeps_the_first_value(folder):
    logger = RunLogger(folder)
    logger.log_metrics({"train/loss": 1.0, "epoch": 0.0}, 5)
    logger.log_metrics({"train/loss": 2.0, "eval/gap": 3.0}, 5)
    assert history(logger, "train/loss") == [(5, 1.0)]
    assert history(logger, "eval/gap") == [(5, 3.0)]


def test_one_write_a_call(folder, monkeypatch):
    logger = RunLogger(folder)
    calls = []
    write = logger.experiment.log_batch
    monkeypatch.setattr(logger.experiment, "log_batch", lambda *args, **kw: calls.append(args) or write(*args, **kw))
    logger.log_metrics({f"train/{i}": float(i) for i in range(30)}, 0)
    logger.log_metrics({f"train/{i}": float(i) for i in range(30)}, 0)
    assert len(calls) == 1
    assert len(calls[0][1]) == 30


def test_nan_and_infinities_are_stored_once(folder):
    values = {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf}
    logger = RunLogger(folder)
    logger.log_metrics(values, 0)
    resumed = RunLogger(folder, logger.run_id)
    resumed.log_metrics(values, 0)
    assert [step for step, _ in history(resumed, "nan")] == [0]
    assert math.isnan(history(resumed, "nan")[0][1])
    # SQL has no infinity: MLflow stores the largest number.
    assert history(resumed, "inf") == [(0, sys.float_info.max)]
    assert history(resumed, "minus_inf") == [(0, -sys.float_info.max)]


@pytest.mark.parametrize("step", [3, 3.0, torch.tensor(3), torch.tensor(3.0)])
def test_steps_become_whole_numbers(folder, step):
    logger = RunLogger(folder)
    logger.log_metrics({"a": torch.tensor(0.5)}, step)
    logger.log_metrics({"a": 0.5}, 3)
    assert history(logger, "a") == [(3, 0.5)]


def test_half_a_step_is_refused(folder):
    with pytest.raises(ValueError, match=r"whole number, got 2.5 for \['train/loss'\]"):
        RunLogger(folder).log_metrics({"train/loss": 1.0}, 2.5)


def test_a_name_mlflow_refuses_is_still_logged_once(folder):
    logger = RunLogger(folder)
    logger.log_metrics({"eval/win@2": 1.0}, 0)
    resumed = RunLogger(folder, logger.run_id)
    resumed.log_metrics({"eval/win@2": 1.0}, 0)
    assert history(resumed, "eval/win_2") == [(0, 1.0)]


@pytest.mark.parametrize("ended", ["FINISHED", "FAILED", "KILLED"])
def test_an_ended_run_goes_on_under_the_same_id(folder, ended):
    logger = RunLogger(folder)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.experiment.set_terminated(logger.run_id, ended)
    resumed = RunLogger(folder, logger.run_id)
    resumed.log_metrics({"train/loss": 1.0}, 0)
    resumed.log_metrics({"train/loss": 0.5}, 1)
    assert resumed.run_id == logger.run_id
    assert status(resumed) == "RUNNING"
    assert history(resumed, "train/loss") == [(0, 1.0), (1, 0.5)]


class Stops(BoringModel):
    def __init__(self, exception):
        super().__init__()
        self.exception = exception

    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == 2:
            raise self.exception


@pytest.mark.parametrize(
    ("exception", "leaves", "ended"),
    [
        (KeyboardInterrupt(), SystemExit, "KILLED"),
        (SIGTERMException(), SIGTERMException, "KILLED"),
        (RuntimeError("the loss is not finite"), RuntimeError, "FAILED"),
    ],
)
def test_how_a_run_ended_is_told(folder, tmp_path, exception, leaves, ended):
    logger, handler = RunLogger(folder), signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(leaves):
            fit(logger, tmp_path / "last.ckpt", model=Stops(exception))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores a second Ctrl-C for good
    assert status(logger) == ended


def test_figures_added_from_outside_leave_the_run_as_it_was(folder):
    own = RunLogger(folder)
    own.log_metrics({"gap/best_of_n": 0.3}, step=2)
    own.finalize("failed")
    ended = own.experiment.get_run(own.run_id).info
    for _ in range(2):
        other = RunLogger(folder, run_id=own.run_id)
        other.leave()  # before anything is logged there is nothing to set back
        other.log_metrics({"gap/exploiter": 0.4}, step=2)
        other.leave()
    info = own.experiment.get_run(own.run_id).info
    assert (info.status, info.end_time) == ("FAILED", ended.end_time)
    assert history(own, "gap/exploiter") == [(2, 0.4)]


def test_parameters_are_logged_once_under_the_configurations_keys(folder, recwarn):
    logger = RunLogger(folder)
    config = {"model": {"objective": {"class_path": "SPPO", "init_args": {"eta": 1000.0}}}, "seed_everything": 1}
    logger.log_hyperparams(config)
    logger.log_hyperparams(config)
    stored = logger.experiment.get_run(logger.run_id).data.params
    assert stored == {
        "model.objective.class_path": "SPPO",
        "model.objective.init_args.eta": "1000.0",
        "seed_everything": "1",
    }
    assert not [warning for warning in recwarn if "parameters" in str(warning.message)]


def test_a_changed_parameter_is_named_and_the_first_value_kept(folder):
    logger = RunLogger(folder)
    logger.log_hyperparams({"eta": 1000.0})
    resumed = RunLogger(folder, logger.run_id)
    with pytest.warns(UserWarning, match=r"eta: 1000.0 \(now 500.0\)"):
        resumed.log_hyperparams({"eta": 500.0, "num_rounds": 3})
    assert resumed.experiment.get_run(resumed.run_id).data.params == {"eta": "1000.0", "num_rounds": "3"}


def test_long_and_many_parameters_fit(folder):
    logger = RunLogger(folder)
    logger.log_hyperparams({f"key_{i}": "x" * 9000 for i in range(230)})
    stored = logger.experiment.get_run(logger.run_id).data.params
    assert len(stored) == 230
    assert set(stored.values()) == {"x" * 500}


def test_a_table_logged_again_is_replaced(folder):
    logger = RunLogger(folder)
    logger.log_table("samples", [{"prompt": "a"}, {"prompt": "b", "win rate": math.nan}], 3)
    logger.log_table("samples", [{"prompt": "a", "win rate": 0.5}], 3)
    logger.log_table("samples", [{"prompt": "a"}], 4)
    assert json.loads(artifact(logger, "tables/samples_round_003.json")) == {
        "columns": ["prompt", "win rate"],
        "data": [["a", 0.5]],
    }
    tag = logger.experiment.get_run(logger.run_id).data.tags["mlflow.loggedArtifacts"]
    assert [entry["path"] for entry in json.loads(tag)] == [
        "tables/samples_round_003.json",
        "tables/samples_round_004.json",
    ]


def test_a_table_is_one_to_mlflow_and_its_cells_are_json(folder):
    logger = RunLogger(folder)
    logger.log_table("gap", [{"name": "é", "gap": math.inf}, {"gap": 1}], 0)
    try:
        mlflow.set_tracking_uri(logger.tracking_uri)  # load_table searches there, whatever its client's store
        table = logger.experiment.load_table(logger.experiment_id, "tables/gap_round_000.json", [logger.run_id])
    finally:
        mlflow.set_tracking_uri(None)
    assert list(table.columns) == ["name", "gap"]
    assert "Infinity" not in artifact(logger, "tables/gap_round_000.json")


def test_hundreds_of_tables_fit_in_mlflows_tag(folder):
    logger = RunLogger(folder)
    for step in range(45):
        logger.log_table("a_table_with_quite_a_long_name/and_a_folder/of_its_own", [{"a": 1}], step)
    listed = json.loads(logger.experiment.get_run(logger.run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed[-1]["path"].endswith("_round_044.json")
    assert len(listed) == 40


def test_a_file_is_stored_once_and_a_torn_copy_is_mended(folder, tmp_path, monkeypatch):
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"round": 0}')
    logger = RunLogger(folder)
    stored = []
    store = logger.experiment.log_artifact
    monkeypatch.setattr(logger.experiment, "log_artifact", lambda *args: stored.append(args) or store(*args))
    logger.log_artifact_once(manifest, "manifests/round_000")
    logger.log_artifact_once(manifest, "manifests/round_000")
    assert len(stored) == 1
    copy = folder.parent / "mlflow_artifacts" / logger.run_id / "artifacts" / "manifests/round_000/manifest.json"
    copy.write_text('{"rou')
    logger.log_artifact_once(manifest, "manifests/round_000")
    assert copy.read_text() == '{"round": 0}'


def test_figures_are_artifacts(folder):
    from matplotlib.figure import Figure

    logger = RunLogger(folder)
    logger.log_figure(Figure(), "gap/round_003.png")
    assert [item.path for item in logger.experiment.list_artifacts(logger.run_id, "gap")] == ["gap/round_003.png"]


def test_a_store_without_the_run_is_an_error_for_people(folder):
    logger = RunLogger(folder, "0" * 32)
    with pytest.raises(RunFolderError, match=r"quick start: its MLflow run 0{32} is not in sqlite.*run\.json"):
        logger.log_metrics({"a": 1.0}, 0)


def test_a_deleted_run_is_an_error_for_people(folder):
    logger = RunLogger(folder)
    logger.experiment.delete_run(logger.run_id)
    with pytest.raises(RunFolderError, match=f"mlflow runs restore --run-id {logger.run_id}"):
        _ = RunLogger(folder, logger.run_id).experiment


def test_a_deleted_experiment_is_an_error_for_people(folder):
    logger = RunLogger(folder)
    logger.experiment.delete_experiment(logger.experiment_id)
    with pytest.raises(ConfigError, match=r"'sppo_lightning' .* is deleted"):
        _ = RunLogger(folder.parent / "another").experiment


def test_the_environment_is_honoured_and_an_argument_beats_it(folder, empty_store, tmp_path, monkeypatch):
    database = tmp_path / "theirs.db"
    shutil.copy(empty_store, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    logger = RunLogger(folder)
    logger.log_metrics({"a": 1.0}, 0)
    assert sqlite3.connect(database).execute("select count(*) from metrics").fetchone() == (1,)
    assert logger.experiment.get_experiment(logger.experiment_id).name == "theirs"
    mine = RunLogger(folder, tracking_uri=f"sqlite:///{folder.parent}/mlflow.db", experiment_name="mine")
    assert mine.tracking_uri == f"sqlite:///{folder.parent}/mlflow.db"
    assert mine.experiment.get_experiment(mine.experiment_id).name == "mine"


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = RunLogger(tmp_path / "runs" / "quickstart")
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_hyperparams({"a": 1})
    logger.log_table("a", [{"a": 1}], 0)
    logger.log_text("a", "a.txt")
    logger.log_artifact_once("missing.txt")
    logger.finalize("success")
    assert logger.run_id is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:s3cret@tracking.example.org:5000/mlflow", "https://***@tracking.example.org:5000/mlflow"),
        ("postgresql+psycopg2://me:s3c/re@t@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("uri: 'http://s3cret@host', next", "uri: 'http://***@host', next"),
        ("sqlite:////home/me@work/runs/mlflow.db", "sqlite:////home/me@work/runs/mlflow.db"),
        ("https://example.org/@me and me@example.org", "https://example.org/@me and me@example.org"),
    ],
)
def test_redact(text, shown):
    assert redact(text) == shown


def test_a_servers_password_reaches_the_server_and_nothing_else(folder, monkeypatch, capfd):
    seen = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Authorization"]))
            self.send_error(403)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")  # so that monkeypatch puts both back
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    try:
        logger = RunLogger(folder, tracking_uri=f"http://me:s3%2Fcret@127.0.0.1:{server.server_port}")
        with pytest.raises(Exception) as caught:
            logger.log_metrics({"a": 1.0}, 0)
    finally:
        server.shutdown()
    assert seen[0][1] == "Basic " + base64.b64encode(b"me:s3/cret").decode()
    assert "cret" not in seen[0][0]
    shown = [str(caught.value), repr(vars(logger)), logger.tracking_uri, *capfd.readouterr()]
    assert not [text for text in shown if "cret" in text]


def test_a_databases_password_is_neither_shown_nor_stored(folder):
    with pytest.raises(ConfigError, match=r"MLflow cannot open its store at nosuchdb://\*\*\*@host/db") as caught:
        RunLogger(folder, tracking_uri="nosuchdb://me:s3cret@host/db")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    logger = RunLogger(folder)
    logger.log_hyperparams({"trainer": {"logger": {"tracking_uri": "postgresql://me:s3cret@host/db"}}})
    logger.log_text("tracking_uri: postgresql://me:s3cret@host/db", "config.yaml")
    for path in folder.parent.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes()


def test_run_page_of_a_database(folder):
    page = run_page("sqlite:////runs of mine/mlflow.db", "1", "ab12", port=5001)
    python, server = page.command.split(" -m ")
    assert Path(python).samefile(sys.executable)
    assert server == (
        "mlflow server --backend-store-uri 'sqlite:////runs of mine/mlflow.db' --host 127.0.0.1 --port 5001 --workers 1"
    )
    assert page.url == "http://127.0.0.1:5001/#/experiments/1/runs/ab12?workflowType=machine_learning"


def test_run_page_of_a_server():
    assert run_page("https://me:s3cret@mlflow.example.org/", "1", "ab12") == (
        "",
        "https://***@mlflow.example.org/#/experiments/1/runs/ab12?workflowType=machine_learning",
    )


def test_prompts_are_one_input_of_the_run_without_credentials(folder):
    logger = RunLogger(folder)
    for _ in range(2):  # as after a resume
        logger.log_prompts(
            "training",
            source="https://me:PLANTED@data.example.org/prompts.jsonl",
            digest="ab" * 32,
            counts={"training": 90, "held out": 10},
        )
    (entry,) = logger.experiment.get_run(logger.run_id).inputs.dataset_inputs
    assert entry.dataset.name == "prompts.jsonl"
    assert ("ab" * 32).startswith(entry.dataset.digest)
    assert json.loads(entry.dataset.profile) == {"training": 90, "held out": 10}
    assert json.loads(entry.dataset.source) == {"uri": "https://***@data.example.org/prompts.jsonl"}
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]
