"""Every configuration that ships can be read by the command it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sppo_lightning.__main__ import main
from sppo_lightning.commands.lab_config import parse_config

CONFIGS = Path(__file__).parents[1] / "configs"
QUICK_START = CONFIGS / "quickstart.yaml"
LAB = sorted((CONFIGS / "lab").rglob("*.yaml"))
CONTROL = sorted((CONFIGS / "control").rglob("*.yaml"))  # tests/control/test_fit.py runs them
FIT = sorted(set(CONFIGS.rglob("*.yaml")) - {*LAB, *CONTROL})


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", FIT, ids=name)
def test_fit_builds_everything_it_names(path, tmp_path, capfd):
    """On its own where it is a whole experiment, after the quick start where it is a part of one.

    The prompts are read once all classes are built and the Trainer is content: these are not there.
    """
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    parts = [] if "policy" in own.get("model", {}) else ["--config", str(QUICK_START)]
    here = {
        "data.prompts": str(tmp_path / "none.jsonl"),
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": str(tmp_path),
        "trainer.logger": "false",
    }
    words = [word for key, value in here.items() for word in (f"--{key}", value)]
    assert main(["fit", *parts, "--config", str(path), *words]) == 2
    assert capfd.readouterr().err.startswith(f"error: {tmp_path / 'none.jsonl'}: there is no such file")


@pytest.mark.parametrize("path", LAB, ids=name)
def test_the_lab_reads_it(path):
    config = parse_config(["--config", str(path)])
    assert config.games
    assert config.methods


@pytest.mark.parametrize("path", [*FIT, *LAB, *CONTROL], ids=name)
def test_its_header_shows_the_command_that_runs_it(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"--config configs/{name(path)}" in line for line in header)


def test_none_is_forgotten():
    assert QUICK_START in FIT
    assert LAB
    assert {path for path in CONFIGS.rglob("*") if path.is_file()} == {*FIT, *LAB, *CONTROL}
