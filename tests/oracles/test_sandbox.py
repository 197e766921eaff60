"""Programs that nobody has read: run for real, and what they must not be able to do."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

import sppo_lightning.oracles.sandbox
from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import Constraint, Verifier
from sppo_lightning.oracles.sandbox import Sandbox

from .examples import candidates

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox's walls are Linux's")

# Program -> how it must end, when its tests are `assert f(1) == 2`.
ENDS = {
    "def f(x): return x + 1": "passed",
    "import decimal, sqlite3, threading, numpy\ndef f(x): return x + 1": "passed",
    "def f(x): return x": "failed",
    "def f(x: return": "failed",
    "def f(x): return x + 1\n\0": "failed",
    "": "failed",
    # What ends the process, or closes or fills the pipe, proves nothing.
    "import os; os._exit(0)": "failed",
    "raise SystemExit(0)": "failed",
    "import os; os.write(3, b'passed'); os._exit(0)": "failed",
    "import os; os.close(3)\ndef f(x): return 2": "failed",
    "import ctypes; ctypes.string_at(0)": "failed",
    "def f(x): return f(x)": "failed",
    # Too much of anything.
    "while True: pass": "timeout",
    "import time; time.sleep(1000)": "timeout",
    "while True: print('x' * 10**6)": "timeout",
    "x = bytearray(10**10)": "failed",
    "import os\nwhile True: os.fork()": "failed",
    "import threading\nwhile True: threading.Thread(target=print).start()": "failed",
    # The world outside.
    "input()": "failed",
    "import subprocess; subprocess.run(['true'])": "failed",
    "import os; os.execv('/bin/true', ['true'])": "failed",
    "open('file', 'w')": "failed",
}
# Run together with the line "import os": what the kernel must answer.
REFUSED = {
    "os.fork()": BlockingIOError,
    "os.open({hole!r}, os.O_CREAT | os.O_WRONLY)": PermissionError,
    "os.unlink({own_file!r})": PermissionError,
    "open({own_file!r}).read()": PermissionError,
    "os.listdir('/')": PermissionError,
    "open('/proc/%d/environ' % os.getppid()).read()": PermissionError,
    "os.kill(os.getppid(), 9)": PermissionError,
    "os.kill({own_pid}, 9)": (PermissionError, ProcessLookupError),
    "__import__('socket').create_connection(('127.0.0.1', {port}), 1)": OSError,
    "__import__('socket').socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))": OSError,
    "__import__('resource').setrlimit(7, (1000, 1000))": ValueError,
    "os.environ['PLANTED_SECRET']": KeyError,
}


@pytest.fixture(scope="module")
def ends():
    programs = list(ENDS)
    began = time.monotonic()
    verdicts = Sandbox(timeout_s=1, memory_mb=2048).run([(program, "assert f(1) == 2") for program in programs])
    assert time.monotonic() - began < 300
    return dict(zip(programs, verdicts, strict=True))


@pytest.mark.parametrize("program", ENDS)
def test_every_program_ends_as_it_must(ends, program):
    assert ends[program] == ENDS[program]


def test_the_world_outside_is_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTED_SECRET", "planted")
    hole = Path(tempfile.gettempdir()) / f"sppo_sandbox_hole_{os.getpid()}"  # where everybody may write
    own_file = tmp_path / "own.txt"
    own_file.write_text("mine")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0)
        places = {"hole": str(hole), "own_file": str(own_file), "own_pid": os.getpid(), "port": server.getsockname()[1]}
        jobs = []
        for attempt, errors in REFUSED.items():
            names = ", ".join(error.__name__ for error in (errors if isinstance(errors, tuple) else (errors,)))
            program = f"import os\ntry:\n    {attempt.format(**places)}\nexcept ({names},):\n    refused = True\n"
            jobs.append((program, "assert refused"))
        verdicts = Sandbox(timeout_s=2, memory_mb=1024).run(jobs)
        assert dict(zip(REFUSED, verdicts, strict=True)) == dict.fromkeys(REFUSED, "passed")
        with pytest.raises(BlockingIOError):
            server.accept()
    assert own_file.read_text() == "mine"
    assert not hole.exists()


def test_a_runner_that_dies_costs_one_program(tmp_path, monkeypatch):
    """As when the system kills it for want of memory: what was said before counts, the rest is run again."""
    runner = tmp_path / "runner.py"
    runner.write_text(
        "import json, os, sys\n"
        "print(json.dumps({'missing': ['walls']}), flush=True)\n"
        "for program, tests in json.load(sys.stdin)['jobs']:\n"
        "    if program == 'die': os.kill(os.getpid(), 9)\n"
        "    print(json.dumps({'verdict': program}), flush=True)\n"
    )
    monkeypatch.setattr(sppo_lightning.oracles.sandbox, "_RUNNER", runner)
    monkeypatch.setattr(sppo_lightning.oracles.sandbox, "_num_cores", lambda: 1)
    with pytest.warns(UserWarning, match="the sandbox is incomplete on this machine: walls") as warned:
        verdicts = Sandbox(1, 100).run([(program, "") for program in ("passed", "die", "failed", "die", "passed")])
    assert verdicts == ["passed", "killed", "failed", "killed", "passed"]
    assert len(warned) == 1
    runner.write_text("raise ImportError('no sandbox today')")
    with pytest.raises(OracleError, match="does not start here: ImportError: no sandbox today"):
        Sandbox(1, 100).run([("", "")])


def test_an_interrupt_does_not_wait_for_what_is_left(tmp_path):
    """A real Ctrl-C, while the first of 40 endless programs run: the rest would take 20 minutes."""
    script = tmp_path / "run.py"
    script.write_text(
        "from sppo_lightning.oracles.sandbox import Sandbox\n"
        "print('running', flush=True)\n"
        "Sandbox(timeout_s=60, memory_mb=1024).run([('while True: pass', '')] * 40)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "running\n"
        while not (programs := programs_of(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        give_up = time.monotonic() + 100
        _, complaint = process.communicate(timeout=100)
    finally:
        process.kill()
    assert complaint.splitlines()[-1] == "KeyboardInterrupt"
    while any(state_of(program) not in ("Z", "gone") for program in programs):
        assert time.monotonic() < give_up, "a program outlived the interrupt"
        time.sleep(0.01)


def programs_of(process_id):
    """The processes two generations below: those that the runners forked."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, parent, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(stat.parent.name))
    return [program for runner in children.get(process_id, []) for program in children.get(runner, [])]


def state_of(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


ADD = "def add(a, b): return a + b"
TESTS = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]


def test_the_last_block_of_code_is_tested_and_equal_programs_once():
    oracle = Verifier(match="unit_test", timeout_s=2)
    texts = [
        f"First\n```python\nwrong(\n```\nno, rather:\n```\n{ADD}\n```\nDone.",
        ADD,
        "```python\ndef add(a, b): return a - b\n```",
        "I cannot do that.",
        ADD,
    ]
    assert Constraint(oracle).oracle is oracle
    matrix = oracle.compare(candidates({"Write add.": texts}, answer=TESTS))
    assert matrix.scores_BK[0].tolist() == [1, 1, 0, 0, 1]
    assert matrix.probs_BKJ[0, 0].tolist() == [0.5, 0.5, 1, 1, 0.5]
    expected = {"tests_passed": 3, "tests_failed": 2, "tests_timeout": 0, "tests_killed": 0}
    assert oracle.measured() == expected
    assert oracle.for_round([]).measured() == dict.fromkeys(expected, 0)
    assert oracle.costs
    assert not Verifier().costs


def test_code_can_be_extracted_in_another_way():
    oracle = Verifier(match="unit_test", extract=r"(?s)BEGIN(.*)END", timeout_s=2)
    matrix = oracle.compare(candidates({"q": [f"BEGIN\n{ADD}\nEND", ADD]}, answer=TESTS[0]))
    assert torch.equal(matrix.scores_BK, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize(
    ("tests", "rule"),
    [
        (None, "p0 has no field 'answer'"),
        (7, "p0 holds 7; --data.oracle.match unit_test takes it to be Python code"),
        ([], r"p0 holds \[\]"),
        (["assert True", 3], r"p0 holds \['assert True', 3\]"),
        ("  ", "p0 holds '  '"),
        ("assert (", "the tests of prompt p0 are not Python"),
    ],
)
def test_prompts_without_tests_are_refused(tests, rule):
    with pytest.raises(OracleError, match=rule):
        Verifier(match="unit_test").check_prompts(candidates({"q": [""]}, answer=tests).prompts)


def test_limits_that_cannot_be():
    with pytest.raises(ConfigError, match=r"data\.oracle\.timeout_s must be at least 1, got 0"):
        Verifier(match="unit_test", timeout_s=0)
    with pytest.raises(ConfigError, match=r"data\.oracle\.memory_mb must be at least 1"):
        Verifier(memory_mb=-1)
