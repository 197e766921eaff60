"""What runs inside the sandbox: reads programs and tests, runs each pair in a process of its own, writes the verdicts.

Started by `sandbox.py` as a script, with the standard library alone. It never runs a line of a program itself: it
forks, and the fork gives up what it may do, in `_give_up`, before it runs anything.
"""

import contextlib
import ctypes
import json
import os
import pwd
import resource
import secrets
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_VERDICT = 3  # the one descriptor that a program's process has beside the standard ones
# linux/prctl.h, sched.h, capability.h; system calls since 2019 have the same numbers on every architecture.
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 8, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CAPABILITY_VERSION, _CAP_DAC_READ_SEARCH = 0x20080522, 1 << 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_READABLE = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Reads {"jobs": [[program, tests], ...], limits ...} and writes one line of JSON for each, after one on itself."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    asked = json.load(sys.stdin)
    limits = asked["limits"]
    _say({"missing": _missing(limits)})
    for program, tests in asked["jobs"]:
        _say({"verdict": _verdict(program, tests, limits)})


def _say(line: dict) -> None:
    print(json.dumps(line), flush=True)


def _verdict(program: str, tests: str, limits: dict) -> str:
    """passed, failed or timeout."""

    def run() -> str:
        _give_up(limits)
        names = {"__name__": "solution"}
        exec(compile(program, "<response>", "exec"), names)
        exec(compile(tests, "<tests>", "exec"), names)
        return proof

    # An exit code of 0 proves nothing: a program may end its process itself.
    proof = secrets.token_hex(16)
    said = _forked(run, limits["clock_s"])
    return "timeout" if said is None else "passed" if said == proof else "failed"


def _missing(limits: dict) -> list[str]:
    """Which protections this machine does not have, tried in a fork."""
    return json.loads(_forked(lambda: json.dumps(_give_up(limits)), limits["clock_s"]) or "[]")


def _forked(task: Callable[[], str], patience_s: float) -> str | None:
    """What `task` returns in a fork; "" if it did not end well, None if it took too long."""
    reading, writing = os.pipe()
    folder = tempfile.mkdtemp(prefix="sandbox-")
    Path(folder).chmod(0o755)
    process = os.fork()
    if process == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.setsid()
            os.chdir(folder)
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            os.dup2(writing, _VERDICT)
            os.closerange(_VERDICT + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            os.write(_VERDICT, task().encode())
            code = 0
        os._exit(code)
    os.close(writing)
    said, ended = b"", False
    end = time.monotonic() + patience_s
    while not ended and (left := end - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        part = os.read(reading, 4096)
        said, ended = (said + part)[:4096], not part
    # The pipe may have been closed by a program that runs on.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(reading)
    shutil.rmtree(folder, ignore_errors=True)
    if not ended or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return None
    return said.decode(errors="replace") if status == 0 else ""


def _give_up(limits: dict) -> list[str]:
    """Gives up rights, for good; returns what could not be given up."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    missing = []
    offline = _libc.unshare(_CLONE_NEWNET) == 0
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if not _landlock():
        missing.append("programs can read files, delete those of this user, and signal its processes")
    if os.geteuid() == 0:
        _become_nobody()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # changing the user takes it back
    if not offline and _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        missing.append("programs can reach the network")
    cpu_s, memory = limits["cpu_s"], limits["memory_bytes"]
    for limit, soft, hard in (
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
    ):
        resource.setrlimit(limit, (soft, hard))
    return missing


def _become_nobody() -> None:
    """From root to an account that owns nothing; what Landlock leaves may still be read.

    Python itself may lie where only root can read it, and a program imports modules after this.
    """
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
    os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    kept = (ctypes.c_uint32 * 6)(_CAP_DAC_READ_SEARCH, _CAP_DAC_READ_SEARCH)
    if _libc.capset(header, kept) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _landlock() -> bool:
    """Leaves reading Python and the system's libraries of the file system, and takes TCP and signals to others away."""

    class Ruleset(ctypes.Structure):
        _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))

    class Beneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))

    version = _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return False
    # linux/landlock.h: 13 rights over files, and since versions 2 and 3 moving and truncating; TCP; signals, sockets.
    files = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14
    rules = Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = ctypes.c_size_t(24 if version >= 6 else 16 if version >= 4 else 8)
    ruleset = _call(_LANDLOCK_CREATE, ctypes.byref(rules), size, ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    for path in map(Path, (sys.prefix, sys.base_prefix, *_READABLE)):
        if path.exists():
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = Beneath(_READ_FILE | (_READ_FOLDER if path.is_dir() else 0), place)
            if _call(_LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0)):
                return False
            os.close(place)
    return _call(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0


def _call(number: int, *words: object) -> int:
    return _libc.syscall(ctypes.c_long(number), *words)


if __name__ == "__main__":
    main()
