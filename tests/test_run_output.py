"""Everything that one real run writes: what a person reads on the terminal, and that no secret is in any of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

# 20 secrets: under telling names at any depth, and by their shape under names that tell nothing.
SECRETS = {
    "api_key": "PLANTED-01",
    "apiKey": "PLANTED-02",
    "hf_token": "PLANTED-03",
    "token": "PLANTED-04",
    "password": "PLANTED-05",
    "db_password": "PLANTED-06",
    "client_secret": "PLANTED-07",
    "aws_secret_access_key": "PLANTED-08",
    "private_key": "PLANTED-09",
    "openai_key": "PLANTED-10",
    "passphrase": "PLANTED-11",
    "credentials": {"user": "PLANTED-12", "more": ["PLANTED-13"]},
    "headers": [{"Authorization": "PLANTED-14"}],
    "api_keys": ["PLANTED-15"],
    "endpoint": "https://me:PLANTED-16@judge.example.org/v1",
    "url": "https://judge.example.org/v1?n=5&access_token=PLANTED-17",
    "header": "Bearer PLANTED-18",
    "words": "login with hf_PLANTED-19abcdefghijkl please",
    "args": ["sk-PLANTED-20abcdefghijklmn"],
}
# 10 settings that only look like one.
LOOK_ALIKES = {
    "max_tokens": 512,
    "batch_tokens": 65536,
    "use_cls_token": True,
    "pad_token_id": 3,
    "pad_token": "<pad>",
    "stop_tokens": ["<end>"],
    "tokenizer": "fast",
    "prompt_key": "question",
    "api_key_env": "JUDGE_API_KEY",
    "secretary": "Miss Lemon",
}
JUDGE = """
from typing import Any
from sppo_lightning.oracles import StyleGame

class Judge(StyleGame):
    def __init__(self, api_key: str, options: dict[str, Any]):
        super().__init__()
        assert api_key == "PLANTED-00" and options["token"] == "PLANTED-04"
"""
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


@dataclass(frozen=True)
class Finished:
    """A run that is over: where it was started, and what it said."""

    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Finished:
    """One round of the quick start on a few prompts, judged by an oracle with 21 secrets among its arguments."""
    folder = tmp_path_factory.mktemp("somewhere")
    (folder / "judges.py").write_text(JUDGE)
    oracle = {"class_path": "judges.Judge", "init_args": {"options": SECRETS | LOOK_ALIKES}}
    (folder / "secrets.yaml").write_text(yaml.safe_dump({"data": {"oracle": oracle}}))
    command = [sys.executable, "-m", "sppo_lightning", "fit"]
    command += ["--config", "configs/quickstart.yaml", "--config", "secrets.yaml"]
    command += ["--data.oracle.api_key", "PLANTED-00"]
    command += ["--data.num_rounds", "1", "--data.epochs_per_round", "2", "--data.prompts_per_round", "6"]
    command += ["--data.num_candidates", "3", "--data.held_out", "2", "--data.engine.max_new_tokens", "24"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    return Finished(folder, done.stdout, done.stderr)


def test_no_secret_is_written_anywhere(run):
    written = [
        path for path in run.folder.rglob("*") if path.is_file() and path.name not in ("secrets.yaml", "judges.py")
    ]
    names = {path.name for path in written}
    assert {"config.yaml", "run.json", "mlflow.db", "manifest.json", "README.md"} <= names
    leaks = {str(path) for path in written if b"PLANTED" in path.read_bytes() and "__pycache__" not in path.parts}
    assert not leaks
    assert "PLANTED" not in run.out + run.err


def test_what_only_looks_like_a_secret_is_kept(run):
    for path in [
        run.folder / "runs/quickstart/config.yaml",
        *(run.folder / "runs/mlflow_artifacts").rglob("config.yaml"),
    ]:
        oracle = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]["oracle"]
        options = oracle["init_args"]["options"]
        assert {key: options[key] for key in LOOK_ALIKES} == LOOK_ALIKES
        assert options["endpoint"] == "https://***@judge.example.org/v1"
        assert options["credentials"] == {"user": "***", "more": ["***"]}
        assert oracle["init_args"]["api_key"] == "***"
    assert len(list((run.folder / "runs/mlflow_artifacts").rglob("config.yaml"))) == 1


def test_the_terminal_says_what_is_done_and_nothing_else(run):
    lines = (run.out + run.err).splitlines()
    assert [line for line in lines if any(noise in line for noise in NOISE)] == []
    assert run.out.startswith("runs/quickstart begins: 1 round of SPPO from package:quickstart/policy, judged by Judge")
    for stage in ("generating: 18 responses", "judging: 18 pairs", "training epoch 1/2", "training epoch 2/2"):
        assert any(f"round 0: {stage}" in line for line in run.err.splitlines())
    assert re.search(r"generating: 18 responses in \d+:\d+, [\d.]+ responses/s", run.err)
    assert "runs/quickstart/exports/round_000" in run.out
    assert "mlflow server" in run.out


def test_no_line_stands_twice_and_no_two_empty_lines_follow_each_other(run):
    assert "\n\n\n" not in run.out
    assert not run.out.startswith("\n")
    assert "\n\n" not in run.err
    for text in (run.out, run.err):
        lines = [line for line in text.splitlines() if line.strip()]
        assert sorted(lines) == sorted(set(lines))
