"""`fit` on the configurations that ship, in this process: a learning signal, a few updates of each, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sppo_lightning.__main__ import main
from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.errors import RunFolderError

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "control").glob("*.yaml"))
SMALL = {
    "data.num_rounds": "2",
    "data.episodes_per_round": "4",
    "data.queue_size": "6",
    "data.export_every": "2",
    "trainer.logger": "false",
}


def fit(config: Path | str, root: Path, **settings: str) -> int:
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return main(["fit", "--config", str(config), "--trainer.default_root_dir", str(root), *words])


def named(name: str) -> Path:
    return next(path for path in CONFIGS if path.stem == name)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """About 10 seconds of SPO under maximum reward, with the record in MLflow."""
    root = tmp_path_factory.mktemp("runs") / "run"
    assert fit(named("reacher_max"), root, **{"data.num_rounds": "24", "data.export_every": "12"}) == 0
    return root


def test_spo_learns(learned):
    metrics = json.loads((learned / "eval" / "round_023" / "head_to_head.json").read_text())["metrics"]
    start = json.loads((learned / "eval" / "round_000" / "round.json").read_text())["round/true_return"]
    assert metrics["round/win_rate_vs_start_low"] > 0.6
    assert metrics["eval/true_return_low"] > start + 10, "the start policy gets about -60, a good one -5"
    # Each of 32 episodes with the other 31, half of that in pairs, and with 32 of the round before.
    assert metrics["round/comparisons_so_far"] == 24 * 32 * 31 / 2 + 23 * 32 * 32
    assert metrics["round/env_steps_so_far"] == 24 * 32 * 50


def test_mlflow_has_curves_films_and_the_payoff_page(learned):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{learned.parent / 'mlflow.db'}")
    run = client.search_runs([each.experiment_id for each in client.search_experiments()])[0]
    assert run.info.status == "FINISHED"
    over = {metric.step for metric in client.get_metric_history(run.info.run_id, "eval/true_return_over_comparisons")}
    assert over == {12 * 32 * 31 / 2 + 11 * 32 * 32, 24 * 32 * 31 / 2 + 23 * 32 * 32}
    assert len(client.get_metric_history(run.info.run_id, "round/true_return")) == 24
    figures = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/filmstrip.png", "figures/learning_curves.png", "figures/true_return.svg"} <= figures
    assert "round_011" in (learned / "report.html").read_text()
    assert (learned / "filmstrip.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so(learned, capsys):
    with pytest.raises(SystemExit) as ending:
        fit(named("reacher_max"), learned, **{"data.num_rounds": "24", "data.export_every": "12"})
    assert not ending.value.code
    assert "is finished: 24 rounds" in capsys.readouterr().out


def test_a_changed_setting_is_refused(learned, capsys):
    assert (
        fit(named("reacher_max"), learned, **{"data.num_rounds": "30", "data.export_every": "12", "data.horizon": "40"})
        == 2
    )
    assert "data.init_args.horizon was changed" in capsys.readouterr().err


def test_a_damaged_export_is_named(learned, tmp_path):
    for name in ("policy.json", "policy.safetensors"):
        content = (learned / "exports" / "round_011" / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-9] if name.endswith("tensors") else content)
    with pytest.raises(RunFolderError, match=r"policy\.safetensors: is missing or damaged"):
        ControlPolicy.load(tmp_path)


# Rewards do not know the preference: one setting shows that they fit in. `learned` has run reacher_max.
UPDATES = [(path.stem, "QueueWinRate") for path in CONFIGS if path.stem != "reacher_max"] + [
    ("inverted_pendulum_max", "LearnedReward"),
    ("inverted_pendulum_max", "TrueReward"),
]


@pytest.mark.parametrize(("name", "reward"), UPDATES)
def test_a_few_updates_of_every_setting(name, reward, tmp_path):
    assert fit(named(name), tmp_path / "run", **SMALL, **{"model.reward": reward}) == 0
    assert (tmp_path / "run" / "exports" / "round_001" / "policy.safetensors").is_file()
    assert (tmp_path / "run" / "filmstrip.png").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.task": "Pendlum-v1"}, "data.task: gymnasium has no task 'Pendlum-v1'; did you mean Pendulum-v1?"),
        ({"data.task": "CartPole-v1"}, "data.task: CartPole-v1 has actions Discrete(2), which are not supported"),
        ({"data.queue_size": "3"}, "data.queue_size must be at least 4"),
        ({"data.preference": "Noisy", "data.preference.flip": "0.5"}, "data.preference.flip must lie in [0, 0.5)"),
        ({"data.preference": "Noise"}, "data.preference: there is no Preference called Noise; did you mean Noisy?"),
        (
            {"data.preference": "SectorMajority", "data.preference.cosine": "3", "data.preference.sine": "1"},
            "data.preference.cosine must be a place in the task's observations, 0 to 2, got 3",
        ),
        ({"model.discount": "1.5"}, "model.discount must lie in (0, 1], got 1.5"),
        (
            {"trainer.max_epochs": "3"},
            "trainer.max_epochs = 3 cannot work with self-play rounds: write data.num_rounds",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(settings, message, tmp_path, capsys):
    assert fit(named("pendulum_max"), tmp_path / "run", **SMALL | settings) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_preference_that_returns_nan_ends_the_run_with_one_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def prefer(first, second):\n    return float('nan')\n")
    settings = {"data.preference": "UserFunction", "data.preference.function": f"{tmp_path / 'mine.py'}:prefer"}
    assert fit(named("pendulum_max"), tmp_path / "run", **SMALL | settings) == 2
    assert "mine.py:prefer must return a probability in [0, 1], got nan" in capsys.readouterr().err


def test_other_verbs_say_where_to_look(tmp_path, capsys):
    assert main(["validate", "--config", str(named("pendulum_max"))]) == 2
    assert "validate measures language models" in capsys.readouterr().err
