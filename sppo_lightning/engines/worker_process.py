"""A process that answers questions: started, asked through files, watched, and ended with all its descendants.

Questions and answers are JSON files in a scratch folder of the process's own, each complete or absent, so that nobody
waits in a collective operation and a process that dies leaves no half answer:

    settings.json   log.txt   alive (touched while working)   question_1.json   answer_1.json   failed.json
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sppo_lightning.io.secrets import redact

_LOG_LINES = 20
# What a worker that was told to stop gets to let go of the device by itself, and one that was killed to be gone.
_GRACE_S = 5.0


class WorkerFailure(Exception):  # noqa: N818 - the engine decides whether it is an error
    """A worker that cannot answer.

    Attributes:
        final: a fresh worker would fail in the same way: this one said why before its first answer.
    """

    def __init__(self, reason: str, log: str, final: bool = False) -> None:
        super().__init__(reason)
        self.log, self.final = log, final


class WorkerProcess:
    """One worker, from its start to its end.

    It runs in a session, and so in a process group, of its own: what kills it reaches its descendants and nobody else.

    Args:
        command: the program; it is given the scratch folder and this process's id, whose end it must not outlive.
        environment: all environment variables of the worker.
        settings: what it finds in `settings.json`.
        timeout_s: the longest time without a sign of life.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], settings: Mapping[str, Any], timeout_s: float
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="sppo-worker-"))
        self._timeout_s = timeout_s
        self._asked = 0
        self._ended = False
        temporaries = self._folder / "tmp"
        temporaries.mkdir()
        self._write("settings.json", settings)
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(self._folder), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, "TMPDIR": str(temporaries)},
                cwd=self._folder,
                start_new_session=True,
            )
        self._last_sign: tuple[int, float] = (0, time.monotonic())

    @property
    def process_id(self) -> int:
        """Of the worker, and of its process group."""
        return self._process.pid

    def ask(self, question: Mapping[str, Any]) -> None:
        """Hands the worker its next question; it may still be starting."""
        self._asked += 1
        self._last_sign = (self._last_sign[0], time.monotonic())
        self._write(f"question_{self._asked}.json", question)

    def answer(self) -> Any | None:
        """The answer to the last question, or None while there is none.

        Raises:
            WorkerFailure: the worker has ended, has said that it failed, or shows no sign of life.
        """
        ended = self._has_ended()  # before looking for files: what it wrote last is there then
        answer = self._folder / f"answer_{self._asked}.json"
        if answer.is_file():
            result = json.loads(answer.read_bytes())
            answer.unlink()
            (self._folder / f"question_{self._asked}.json").unlink()
            return result
        failed = self._folder / "failed.json"
        if failed.is_file():
            report = json.loads(failed.read_bytes())
            raise self._failure(f"failed: {report['error']}", final=report["starting"])
        if ended is not None:
            raise self._failure(ended)
        silent_s = self._silent_s()
        if silent_s > self._timeout_s:
            raise self._failure(f"gave no sign of life for {silent_s:.0f} s")
        return None

    def close(self) -> None:
        """Ends the worker and its descendants, waits for a while until they are gone, removes the scratch folder."""
        if self._ended:
            return
        with contextlib.suppress(FileNotFoundError):  # a worker removes its folder when it believes itself alone
            (self._folder / "stop").touch()
        until = time.monotonic() + _GRACE_S
        while self._is_idle() and self._has_ended() is None and time.monotonic() < until:
            time.sleep(0.01)
        # The leader is not waited for before: until then its id, and so its group's, belongs to nobody else.
        os.killpg(self._process.pid, signal.SIGKILL)
        while _living(self._process.pid) and time.monotonic() < until + _GRACE_S:
            time.sleep(0.01)
        self._ended = True
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            warnings.warn(
                f"worker process {self._process.pid} was killed and is still there: the system is busy on its behalf, "
                "with a device or a disk; what it holds is given back when that ends",
                stacklevel=2,
            )
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_idle(self) -> bool:
        """Whether it waits for a question and so will see that it should stop; nothing is lost if it does not."""
        return self._asked > 0 and not (self._folder / f"question_{self._asked}.json").exists()

    def _has_ended(self) -> str | None:
        """How the worker ended, or None while it runs. It stays a zombie, so that its id is not given to another."""
        status = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return None
        if status.si_code == os.CLD_EXITED:
            return f"ended with exit code {status.si_status} without an answer"
        return f"was killed by {signal.Signals(status.si_status).name}"

    def _silent_s(self) -> float:
        """Seconds since the worker last touched its `alive`, by this process's clock."""
        alive = self._folder / "alive"
        touched = alive.stat().st_mtime_ns if alive.exists() else 0
        if touched != self._last_sign[0]:
            self._last_sign = (touched, time.monotonic())
        return time.monotonic() - self._last_sign[1]

    def _failure(self, reason: str, final: bool = False) -> WorkerFailure:
        try:
            lines = (self._folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            lines = ["(none: its scratch folder has been removed)"]
        return WorkerFailure(reason, redact("\n".join(lines[-_LOG_LINES:])), final)

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        temporary = self._folder / f".{name}"
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(self._folder / name)


def _living(group: int) -> list[int]:
    """The processes of a group that still hold memory, read from /proc; elsewhere than on Linux, none that is known."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state parent group ...; the name may hold anything.
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone since it was listed
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found
