"""Started from a folder that has its own `callbacks/`: both packages are found, from the wheel as from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[1]
# Looks without importing: that the whole works is shown once, from the wheel.
WHERE = (
    "import importlib.util, sppo_lightning\n"
    "print(sppo_lightning.__file__)\n"
    "print(importlib.util.find_spec('sppo_lightning.callbacks').origin)\n"
    "print(importlib.util.find_spec('callbacks').origin)\n"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=CHECKOUT, check=True)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Somebody's folder, with a `callbacks/` that has nothing to do with ours."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "callbacks").mkdir()
    (folder / "callbacks" / "__init__.py").write_text("")
    (folder / "callbacks" / "mine.py").write_text(
        "from lightning.pytorch import Callback\n\n\nclass Mine(Callback):\n    pass\n"
    )
    return folder


def python(project: Path, source: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("installed", ["wheel", "checkout"])
def test_each_callbacks_is_found_by_its_own_name(installed, project, request):
    source = request.getfixturevalue("wheel") if installed == "wheel" else CHECKOUT
    package, ours, theirs = python(project, source, "-c", WHERE).stdout.splitlines()
    inside = source / "sppo_lightning" if installed == "wheel" else source
    assert Path(package) == source / "sppo_lightning" / "__init__.py"
    assert Path(ours) == inside / "callbacks" / "__init__.py"
    assert Path(theirs) == project / "callbacks" / "__init__.py"


def test_the_wheel_brings_everything(wheel):
    inside = wheel / "sppo_lightning"
    names = {path.relative_to(inside).as_posix() for path in inside.rglob("*") if path.is_file()}
    for folder in ("sppo_lightning", "callbacks", "configs"):
        root = CHECKOUT / folder
        prefix = "" if folder == "sppo_lightning" else f"{folder}/"
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{prefix}{path.relative_to(root).as_posix()}" in names


def test_the_command_works_from_the_wheel(wheel, project):
    helped = python(project, wheel, "-m", "sppo_lightning", "--help")
    assert helped.returncode == 0
    assert "python -m sppo_lightning VERB" in helped.stdout

    words = ["--config", "configs/quickstart.yaml", "--trainer.callbacks+=callbacks.mine.Mine", "--print_config"]
    printed = python(project, wheel, "-m", "sppo_lightning", "fit", *words)
    assert printed.returncode == 0, printed.stderr
    *ours, mine = [entry["class_path"] for entry in yaml.safe_load(printed.stdout)["trainer"]["callbacks"]]
    assert mine == "callbacks.mine.Mine"
    assert ours
    assert all(name.startswith("sppo_lightning.callbacks.") for name in ours)
