"""Runs programs that nobody has read against tests, in processes that may do little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from sppo_lightning.errors import ConfigError, OracleError

Verdict = Literal["passed", "failed", "timeout", "killed"]

_RUNNER = Path(__file__).with_name("sandbox_runner.py")
_CLOCK_PER_CPU = 4  # a busy machine gives a process a part of its time
_SLACK_S = 60.0
# Nothing of this process's environment goes in. The hash seed makes the order of a set the same each time.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"} | dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


class _Runners:
    """The runners of one call, which can be ended from another thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._started: list[subprocess.Popen[str]] = []
        self._ended = False

    def start(self) -> subprocess.Popen[str]:
        """Starts one.

        Raises:
            OracleError: they have been ended.
        """
        with self._lock:
            if self._ended:
                raise OracleError("Verifier: the tests were interrupted")
            runner = subprocess.Popen(
                # Isolated like -I, but for the hash seed.
                [sys.executable, "-s", "-P", "-B", str(_RUNNER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
            )
            self._started.append(runner)
        return runner

    def end(self) -> None:
        """Kills them, and with them what they run."""
        with self._lock:
            self._ended = True
            for runner in self._started:
                runner.kill()


class Sandbox:
    """Runs (program, tests) pairs: first the program, then the tests in the same namespace, and nothing may raise.

    Each pair gets a process of its own, forked from one that runs nothing, in a session of its own: an empty folder,
    an empty environment, no input, output thrown away; limits on processor time, clock time and memory; no further
    process or thread, and no file written (the kernel's limits are 0). Started as root it becomes `nobody`. On Linux
    further: no network, by a namespace; nothing read but Python and the system's libraries, nothing changed, executed
    or signalled, by Landlock (5.13 and later). What a machine cannot do of this is said once, in a warning.

    It does NOT protect against: programs that tamper with the tests or with Python in their own process in order to
    pass, and holes in Python or in the kernel. Where a secret is at stake run the whole command in a container.

    Args:
        timeout_s: processor time of one pair, in seconds, the tests included.
        memory_mb: address space of one pair.

    Raises:
        ConfigError: this system has no such limits (Windows).
    """

    def __init__(self, timeout_s: int, memory_mb: int) -> None:
        if os.name != "posix":
            raise ConfigError("data.oracle.match unit_test runs programs under limits that only Linux and macOS have")
        self._limits = {"cpu_s": timeout_s, "clock_s": timeout_s * _CLOCK_PER_CPU, "memory_bytes": memory_mb * 2**20}
        self._has_warned = False

    def run(self, jobs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Runs every pair, as many at a time as this process may use cores.

        Args:
            jobs: N programs, each with its tests.

        Returns:
            [N] passed; failed: something raised, or the process ended before the tests did; timeout; killed: the
            program took the process down that had forked it.

        Raises:
            OracleError: the sandbox itself does not start.
        """
        num_lanes = max(1, min(len(jobs), _num_cores()))
        runners, pool = _Runners(), ThreadPoolExecutor(num_lanes)
        try:
            lanes = list(pool.map(partial(self._lane, runners), [jobs[lane::num_lanes] for lane in range(num_lanes)]))
        except BaseException:  # Ctrl-C above all, which must not wait for the jobs that are left
            runners.end()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        verdicts: list[Verdict] = [lanes[place % num_lanes][place // num_lanes] for place in range(len(jobs))]
        return verdicts

    def missing(self) -> list[str]:
        """What this machine's sandbox does not keep programs from, in words.

        Raises:
            OracleError: the sandbox itself does not start.
        """
        return self._asked(_Runners(), [])[0]["missing"]

    def _lane(self, runners: _Runners, jobs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One runner's pairs, one after the other; a runner that dies is replaced."""
        verdicts: list[Verdict] = []
        while len(verdicts) < len(jobs):
            new = self._start(runners, jobs[len(verdicts) :])
            verdicts += new
            if len(verdicts) < len(jobs):
                verdicts.append("killed")
        return verdicts

    def _start(self, runners: _Runners, jobs: Sequence[tuple[str, str]]) -> list[Verdict]:
        itself, *verdicts = self._asked(runners, jobs)
        self._warn(itself["missing"])
        return [line["verdict"] for line in verdicts]

    def _asked(self, runners: _Runners, jobs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """What the runner says: a line on itself, then one for each pair."""
        asked = json.dumps({"jobs": jobs, "limits": self._limits})
        runner = runners.start()
        patience_s = _SLACK_S + (len(jobs) + 1) * float(self._limits["clock_s"])
        try:
            said, complaint = runner.communicate(asked, timeout=patience_s)
        except subprocess.TimeoutExpired:
            runner.kill()
            said, complaint = runner.communicate()
        lines = [json.loads(line) for line in said.splitlines() if line.endswith("}")]
        if not lines:
            reason = complaint.strip().splitlines()[-1:] or [f"exit code {runner.returncode}"]
            raise OracleError(f"Verifier: the sandbox of match unit_test does not start here: {reason[0]}")
        return lines

    def _warn(self, missing: Sequence[str]) -> None:
        if missing and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"data.oracle Verifier: the sandbox is incomplete on this machine: {'; '.join(missing)}. Run the "
                "command in a container or as a user of its own if the policy's programs are not to be trusted",
                stacklevel=2,
            )


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
