"""Runs of `python -m sppo_lightning fit` as real processes that can be killed."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo_lightning.io.files import TEMPORARY_SUFFIX, sha256_of
from sppo_lightning.training.tracking_store import create_database

LAUNCHER = Path(__file__).parent / "launcher.py"
CONFIG = Path(__file__).parent / "small.yaml"
CHUNK = re.compile(r"\d{5}-[0-9a-f]{12}\.parquet")


def empty_store(folder: Path) -> Path:
    """A new MLflow database, to be copied: making one takes longer than a run."""
    create_database(f"sqlite:///{folder / 'mlflow.db'}", artifact_location="")
    return folder / "mlflow.db"


def finished_work(folder: Path) -> dict[str, tuple[int, int]]:
    """Finished chunks, held-out responses and exported weights, by inode and time of change: none is made twice."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if (CHUNK.fullmatch(path.name) or path.name in ("responses.parquet", "model.safetensors"))
        and not any(part.endswith(TEMPORARY_SUFFIX) for part in path.parts)
    }


def made_again(before: dict[str, tuple[int, int]], folder: Path) -> list[str]:
    """The names of `finished_work` that are not what they were."""
    after = finished_work(folder)
    return sorted(name for name in before if after.get(name) != before[name])


class Launcher:
    """The parent of all attempts: imports take seconds, a fork milliseconds."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "SPPO_CRASH_AT", "SPPO_CRASH_LOG"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, LAUNCHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )
        self._answer()

    def start(self, argv: list[str], environment: dict[str, str], output: Path) -> int:
        """Forks an attempt and returns its process id."""
        return self._ask(start=argv, environment=environment, output=str(output))

    def wait(self, process_id: int) -> tuple[int, float]:
        """The exit code of an attempt, negative for a signal, and the CPU seconds it took."""
        code, cpu_s = self._ask(wait=process_id)
        return code, cpu_s

    def close(self) -> None:
        """Ends the parent."""
        self._process.communicate()

    def _ask(self, **request: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert answer, f"the launcher has ended with code {self._process.wait()}"
        return json.loads(answer)


@dataclass(frozen=True)
class Attempt:
    """How one process ended: its exit code, negative for a signal, its CPU time and what it printed."""

    code: int
    cpu_s: float
    output: str

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def error(self) -> str:
        """The first line of the error it ended with."""
        lines = [line for line in self.output.splitlines() if line.startswith("error: ")]
        assert lines, self.output[-3000:]
        return lines[-1]


def _cpu_seconds_if_alive(process_id: int) -> float:
    """The CPU seconds of a process so far; infinite once it has ended."""
    state, *fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return math.inf if state == "Z" else (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")


class Run:
    """A run folder with a MLflow store of its own beside it, and the command that works on it.

    Args:
        launcher: where attempts come from.
        parent: a folder of its own for the run.
        arguments: what the command has beyond the configuration and the folder.
        store: an empty MLflow database to begin with.
        name: of the run folder.
        config: the configuration.
    """

    def __init__(
        self,
        launcher: Launcher,
        parent: Path,
        *arguments: str,
        store: Path | None = None,
        name: str = "run",
        config: Path = CONFIG,
    ) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.launcher, self.parent, self.arguments = launcher, parent, arguments
        self.folder = parent / name
        self.database = parent / "mlflow.db"
        self.attempts: list[Attempt] = []
        self._started = 0
        if store is not None:
            shutil.copyfile(store, self.database)

    def start(self, *arguments: str, crash_at: str = "", crash_log: str | Path = "") -> tuple[int, Path]:
        """Begins an attempt; returns its process id and where it prints."""
        self._started += 1
        output = self.parent / f"{self.folder.name}_attempt_{self._started:02d}.log"
        argv = ["fit", "--config", str(self.config), *self.arguments, *arguments]
        argv += ["--trainer.default_root_dir", str(self.folder)]
        environment = {"SPPO_CRASH_AT": crash_at, "SPPO_CRASH_LOG": str(crash_log)}
        return self.launcher.start(argv, environment, output), output

    def fit(self, *arguments: str, crash_at: str = "", crash_log: str | Path = "") -> Attempt:
        """One attempt to its end, or to the crash point."""
        process_id, output = self.start(*arguments, crash_at=crash_at, crash_log=crash_log)
        return self._ended(process_id, output)

    def fit_killed_after(self, cpu_s: float) -> Attempt:
        """One attempt that gets SIGKILL after this CPU time, unless it has ended by then.

        CPU time rather than the clock's: on a busy machine the moment is as deep in the run as on an idle one.
        """
        process_id, output = self.start()
        while _cpu_seconds_if_alive(process_id) < cpu_s:
            time.sleep(0.002)
        os.kill(process_id, signal.SIGKILL)  # not waited for yet, so the id is still this attempt's
        return self._ended(process_id, output)

    def fit_with_random_kills(self, seed: int, longest_cpu_s: float, most: int = 50) -> tuple[int, list[str]]:
        """Kills attempt after attempt at random times until one ends by itself.

        Args:
            seed: of the moments.
            longest_cpu_s: what an unbroken run takes.
            most: attempts before this is given up.

        Returns:
            the number of kills, and what a later attempt made again.
        """
        moments = random.Random(seed)
        again: list[str] = []
        for kills in range(most):
            finished = finished_work(self.folder)
            # The first within the first half: a moment near the end may come after it, and nothing would be killed.
            share = moments.uniform(0, 1.0 if kills else 0.5)
            attempt = self.fit_killed_after(share * longest_cpu_s)
            again += made_again(finished, self.folder)
            if not attempt.was_killed:
                assert attempt.code == 0, attempt.output[-3000:]
                return kills, again
        raise AssertionError(f"{self.folder} was not finished in {most} attempts")

    def copied_to(self, parent: Path) -> Run:
        """The same run in another place, to be damaged there; MLflow's store names places in full."""
        shutil.copytree(self.parent, parent)
        copy = Run(self.launcher, parent, *self.arguments)
        with closing(sqlite3.connect(copy.database)) as connection, connection:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                connection.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (self.parent.as_uri(), parent.as_uri())
                )
        return copy

    def contents(self) -> dict[str, str]:
        """File -> hash of everything in the run folder."""
        return {
            path.relative_to(self.folder).as_posix(): sha256_of(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def remove(self) -> None:
        """Deletes the run and its store."""
        shutil.rmtree(self.parent)

    def _ended(self, process_id: int, output: Path) -> Attempt:
        self.attempts.append(Attempt(*self.launcher.wait(process_id), output.read_text()))
        return self.attempts[-1]
