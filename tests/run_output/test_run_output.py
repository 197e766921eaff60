"""Everything that one real run writes: what a person reads on the terminal, and that no secret is in any of it."""

from __future__ import annotations

import re

import yaml

from .planted_secrets import LOOK_ALIKES

NOISE = (
    "GPU available",
    "TPU available",
    "litlogger",
    "`Trainer.fit` stopped",
    "LightningCLI",
    "Seed set to",
    "LeafSpec",
    "transfer_batch_to_device",
    "Loading weights",
    "Creating initial MLflow",
    "alembic",
    "Warning",
)


def test_no_secret_is_written_anywhere(command_run):
    written = [
        path
        for path in command_run.folder.rglob("*")
        if path.is_file() and path.name not in ("secrets.yaml", "judges.py")
    ]
    names = {path.name for path in written}
    assert {"config.yaml", "run.json", "mlflow.db", "manifest.json", "README.md"} <= names
    leaks = {str(path) for path in written if b"PLANTED" in path.read_bytes() and "__pycache__" not in path.parts}
    assert not leaks
    assert "PLANTED" not in command_run.out + command_run.err


def test_what_only_looks_like_a_secret_is_kept(command_run):
    for path in [
        command_run.folder / "runs/quickstart/config.yaml",
        *(command_run.folder / "runs/mlflow_artifacts").rglob("config.yaml"),
    ]:
        oracle = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]["oracle"]
        options = oracle["init_args"]["options"]
        assert {key: options[key] for key in LOOK_ALIKES} == LOOK_ALIKES
        assert options["endpoint"] == "https://***@judge.example.org/v1"
        assert options["credentials"] == {"user": "***", "more": ["***"]}
        assert oracle["init_args"]["api_key"] == "***"
    assert len(list((command_run.folder / "runs/mlflow_artifacts").rglob("config.yaml"))) == 1


def test_the_terminal_says_what_is_done_and_nothing_else(command_run):
    lines = (command_run.out + command_run.err).splitlines()
    assert [line for line in lines if any(noise in line for noise in NOISE)] == []
    begins = "runs/quickstart begins: 2 rounds of SPPO from package:quickstart/policy, judged by Judge"
    assert command_run.out.startswith(begins)
    for stage in ("generating: 18 responses", "judging: 18 pairs", "training epoch 1/2", "training epoch 2/2"):
        assert any(f"round 0: {stage}" in line for line in command_run.err.splitlines())
    assert re.search(r"generating: 18 responses in \d+:\d+, [\d.]+ responses/s", command_run.err)
    assert "runs/quickstart/exports/round_001" in command_run.out
    assert "mlflow server" in command_run.out


def test_no_line_stands_twice_and_no_two_empty_lines_follow_each_other(command_run):
    assert "\n\n\n" not in command_run.out
    assert not command_run.out.startswith("\n")
    assert "\n\n" not in command_run.err
    for text in (command_run.out, command_run.err):
        # Held-out responses are judged once a round, and their bar does not say in which.
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("judging held-out")]
        assert sorted(lines) == sorted(set(lines))
