"""One parent of all attempts, one empty MLflow database to copy, and the unbroken run that others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import Launcher, Run, empty_store


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def new_run(launcher: Launcher, store: Path, tmp_path: Path) -> Callable[..., Run]:
    """new_run(*arguments) -> a run in a folder of its own."""
    made: list[Run] = []

    def new_run(*arguments: str) -> Run:
        made.append(Run(launcher, tmp_path / f"{len(made)}", *arguments, store=store))
        return made[-1]

    return new_run


@pytest.fixture(scope="session")
def make_unbroken(launcher: Launcher, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """make_unbroken(*arguments) -> a finished run that nobody killed."""

    def make_unbroken(*arguments: str) -> Run:
        run = Run(launcher, tmp_path_factory.mktemp("unbroken"), *arguments, store=store)
        attempt = run.fit()
        assert attempt.code == 0, attempt.output[-3000:]
        return run

    return make_unbroken


@pytest.fixture(scope="session")
def unbroken(make_unbroken: Callable[..., Run]) -> Run:
    """The run of small.yaml that nobody killed."""
    return make_unbroken()
