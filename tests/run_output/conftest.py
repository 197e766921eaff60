"""One run of the real command, which everything it leaves behind is looked for in."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from .planted_secrets import JUDGE, LOOK_ALIKES, SECRETS


@dataclass(frozen=True)
class CommandRun:
    """A run of the real command that is over: where it was started, and what it said."""

    folder: Path
    out: str
    err: str


@pytest.fixture(scope="session")
def command_run(tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    """Two rounds of the quick start on a few prompts, judged by an oracle with 21 secrets among its arguments."""
    folder = tmp_path_factory.mktemp("somewhere")
    (folder / "judges.py").write_text(JUDGE)
    oracle = {"class_path": "judges.Judge", "init_args": {"options": SECRETS | LOOK_ALIKES}}
    (folder / "secrets.yaml").write_text(yaml.safe_dump({"data": {"oracle": oracle}}))
    command = [sys.executable, "-m", "sppo_lightning", "fit"]
    command += ["--config", "configs/quickstart.yaml", "--config", "secrets.yaml"]
    command += ["--data.oracle.api_key", "PLANTED-00"]
    command += ["--data.num_rounds", "2", "--data.epochs_per_round", "2", "--data.prompts_per_round", "6"]
    command += ["--data.num_candidates", "3", "--data.held_out", "2", "--data.engine.max_new_tokens", "24"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    return CommandRun(folder, done.stdout, done.stderr)
