"""Real processes that answer, end, hang and leave children behind; none of them is vLLM."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sppo_lightning.engines import vllm_worker, worker_process
from sppo_lightning.engines.worker_pool import WorkerPool
from sppo_lightning.engines.worker_process import WorkerFailure, WorkerProcess
from sppo_lightning.errors import EngineError

from .processes import is_gone, of_group, wait_until, workers_of

# Answers each question with its double, as vllm_worker.py does.
DOUBLES = """
    number = 1
    while not (folder / "stop").exists():
        if (folder / f"question_{number}.json").exists():
            value = json.loads((folder / f"question_{number}.json").read_text())["value"]
            (folder / ".answer").write_text(json.dumps(2 * value))
            (folder / ".answer").replace(folder / f"answer_{number}.json")
            number += 1
        time.sleep(0.005)
"""
WITH_CHILD = "child = subprocess.Popen(['sleep', '1000']); (folder / 'alive').touch()\n"
HANGS = "time.sleep(1000)"


def start(program, timeout_s=60.0, environment=None):
    begin = "import json, os, signal, subprocess, sys, time\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", begin + textwrap.dedent(program)]
    return WorkerProcess(command, os.environ | (environment or {}), {"key": "value"}, timeout_s)


@pytest.fixture
def worker():
    """worker(program) -> a process; ended with the test."""
    made = []

    def worker(*arguments, **keywords):
        made.append(start(*arguments, **keywords))
        return made[-1]

    yield worker
    for process in made:
        process.close()
        assert is_gone(process.process_id)


def failure_of(worker):
    with pytest.raises(WorkerFailure) as failure:
        wait_until(worker.answer)
    return failure.value


def test_questions_are_answered_in_turn(worker):
    process = worker(DOUBLES)
    for value in (1, 21):
        process.ask({"value": value})
        assert wait_until(process.answer) == 2 * value
    (folder,) = (workers_of(os.getpid())[process.process_id],)
    assert json.loads((folder / "settings.json").read_text()) == {"key": "value"}
    process.close()
    assert is_gone(process.process_id)
    assert not folder.exists()


def test_it_runs_in_a_session_of_its_own_with_its_own_place_for_temporaries(worker):
    process = worker("import tempfile\nprint(os.getsid(0), os.getpid(), tempfile.gettempdir())\nsys.exit(3)")
    folder = workers_of(os.getpid()).get(process.process_id)
    process.ask({})
    session, process_id, temporaries = failure_of(process).log.split()
    assert session == process_id == str(process.process_id)
    assert folder is None or temporaries == str(folder / "tmp")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("sys.exit(0)", "ended with exit code 0 without an answer"),
        ("sys.exit(7)", "ended with exit code 7 without an answer"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
    ],
)
def test_how_it_ended_is_said(worker, program, reason):
    process = worker("print('last words')\nsys.stdout.flush()\n" + program)
    process.ask({})
    failure = failure_of(process)
    assert reason in str(failure)
    assert failure.log == "last words"
    assert not failure.final


def test_what_it_said_before_its_first_answer_is_final(worker):
    process = worker("(folder / 'failed.json').write_text(json.dumps({'error': 'no such model', 'starting': True}))")
    process.ask({})
    failure = failure_of(process)
    assert failure.final
    assert "no such model" in str(failure)


@pytest.mark.parametrize("program", [HANGS, "os.kill(os.getpid(), signal.SIGSTOP)"])
def test_silence_is_a_failure(worker, program):
    process = worker(program, timeout_s=0.5)
    process.ask({})
    assert "gave no sign of life" in str(failure_of(process))


def test_work_is_a_sign_of_life(worker):
    process = worker(HANGS, timeout_s=0.5)
    folder = wait_until(lambda: workers_of(os.getpid()).get(process.process_id))
    process.ask({})
    for _ in range(30):
        (folder / "alive").touch()  # as if it were at work
        assert process.answer() is None
        time.sleep(0.05)
    assert "gave no sign of life" in str(failure_of(process))


def test_its_children_end_with_it(worker):
    process = worker(WITH_CHILD + HANGS)
    folder = wait_until(lambda: workers_of(os.getpid()).get(process.process_id))
    wait_until((folder / "alive").exists)
    assert len(of_group(process.process_id)) == 2
    process.close()
    assert of_group(process.process_id) == []


def test_children_of_one_that_has_ended_end_too(worker):
    process = worker(WITH_CHILD + "sys.exit(0)")
    process.ask({})
    failure_of(process)
    assert len(of_group(process.process_id)) == 1
    process.close()
    assert of_group(process.process_id) == []


def test_its_log_tells_no_secrets(worker):
    process = worker("print('https://user:hunter2@host/ hf_abcdefghijklmnopqrstuvwxyz')\nsys.exit(1)")
    process.ask({})
    log = failure_of(process).log
    assert "hunter2" not in log
    assert "hf_abc" not in log


def test_a_log_that_is_gone_is_no_second_failure(worker):
    process = worker("import shutil; shutil.rmtree(folder); sys.exit(4)")
    with pytest.raises(WorkerFailure, match="exit code 4") as failure:
        wait_until(process.answer)
    assert "has been removed" in failure.value.log


def test_one_that_cannot_be_killed_is_left_with_a_warning(monkeypatch):
    """As when a driver hangs; a kill that does nothing stands for it."""
    monkeypatch.setattr(worker_process, "_GRACE_S", 0.1)
    process = start(HANGS)
    with monkeypatch.context() as unkillable:
        unkillable.setattr(worker_process.os, "killpg", lambda *_: None)
        with pytest.warns(UserWarning, match=f"worker process {process.process_id} was killed and is still there"):
            process.close()
    os.killpg(process.process_id, signal.SIGKILL)
    process._process.wait()


def pool_of(*programs, retries=1):
    """A pool whose first worker runs the first program, and so on."""
    left = list(programs)

    def start_next(slot):
        program = left.pop(0)
        return start(program, timeout_s=0.5 if program == HANGS else 60.0)

    return WorkerPool(start_next, lambda slot: f"worker {slot}", retries)


def test_a_worker_that_fails_is_replaced_and_the_others_are_kept():
    pool = pool_of(DOUBLES, "sys.exit(0)", DOUBLES)
    with pytest.warns(UserWarning, match=r"worker 1 ended with exit code 0 .*retry 1 of 1"):
        assert pool.answers({0: {"value": 1}, 1: {"value": 2}}) == {0: 2, 1: 4}
    before = workers_of(os.getpid())
    assert pool.answers({0: {"value": 3}, 1: {"value": 4}}) == {0: 6, 1: 8}
    assert workers_of(os.getpid()) == before
    assert len(before) == 2
    pool.close()
    assert workers_of(os.getpid()) == {}


def test_one_that_goes_on_failing_is_reported_and_nobody_is_left():
    pool = pool_of(DOUBLES, "print('why')\nsys.exit(5)", HANGS)
    with (
        pytest.warns(UserWarning, match="exit code 5"),
        pytest.raises(EngineError, match=r"worker 1 gave no sign of life .*\(2 of 2 attempts\)"),
    ):
        pool.answers({0: {"value": 1}, 1: {"value": 2}})
    assert workers_of(os.getpid()) == {}


def test_one_that_says_why_is_not_asked_again():
    says = (
        "(folder / 'failed.json').write_text(json.dumps({'error': 'too small', 'starting': True})); print('log line')"
    )
    with pytest.raises(EngineError, match=r"worker 0 failed: too small\. (?s:.*)log line"):
        pool_of(says, DOUBLES).answers({0: {"value": 1}})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_worker_does_not_outlive_a_killed_parent(tmp_path):
    """The real worker, while it is busy with its imports; only its parent is a stand-in."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, os, subprocess; from pathlib import Path\n"
            "scratch = Path(sys.argv[2]); (scratch / 'settings.json').write_text('{}')\n"
            "subprocess.Popen([sys.executable, '-P', sys.argv[1], str(scratch), str(os.getpid())],"
            " start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
            "time.sleep(1000)",
            vllm_worker.__file__,
            str(scratch := tmp_path / "sppo-worker-x"),
        ],
        start_new_session=scratch.mkdir() is None,
    )
    workers = wait_until(lambda: workers_of(parent.pid))
    (process_id,) = workers
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: is_gone(process_id))
    assert not scratch.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_worker_behind_a_wrapper_lives_as_long_as_the_run_and_no_longer(tmp_path):
    """`data.engine.python` as a shell script that does not exec: the worker's parent is the shell."""
    watcher = tmp_path / "watcher.py"
    watcher.write_text(
        f"import sys; sys.path.append({str(Path(vllm_worker.__file__).parent)!r})\n"
        "import vllm_worker, pathlib\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "start_of, rounds = vllm_worker._start_of, []\n"
        "def count(process_id):\n"
        "    rounds.append(0)\n"
        "    len(rounds) == 3 and (folder / 'lives').touch()\n"
        "    return start_of(process_id)\n"
        "vllm_worker._start_of = count\n"
        "vllm_worker._die_with(int(sys.argv[2]), folder)\n"
    )
    (wrapper := tmp_path / "python").write_text(f'#!/bin/sh\n{sys.executable} "$@"\nexit $?\n')
    wrapper.chmod(0o755)
    (scratch := tmp_path / "sppo-worker-y").mkdir()
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time\n"
            "subprocess.Popen([*sys.argv[1:], str(os.getpid())], start_new_session=True)\n"
            "time.sleep(1000)",
            *map(str, (wrapper, "-P", watcher, scratch)),
        ]
    )
    wait_until((scratch / "lives").exists)
    workers = workers_of(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)  # a zombie at first: nobody has waited for it
    wait_until(lambda: all(is_gone(process_id) for process_id in workers))
    parent.wait()
    assert workers
    assert not scratch.exists()
