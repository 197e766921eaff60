"""Imports the package once, then forks a process for each attempt; a program of its own, which nothing imports.

Says its process id when it is ready, then reads one JSON request a line and answers each with one line of JSON:
    {"start": ["fit", ...], "environment": {...}, "output": FILE}   -> the id of a new process, like `python -m ...`
    {"wait": PID}                                                 -> [exit code, negative for a signal; CPU seconds]
"""

import importlib
import json
import os
import signal
import sys
import threading

import torch

from sppo_lightning.__main__ import main
from sppo_lightning.io.tables import parquet_bytes

# What `fit` imports on its way, so that no attempt has to.
IMPORTED_ONCE = (
    "sppo_lightning.cli",
    "alembic.command",
    "git",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.tracking.context.registry",
    "transformers.models.llama.modeling_llama",
)
# An attempt that hangs ends with SIGALRM instead of holding up the tests.
LONGEST_ATTEMPT_S = 300


def start(argv: list[str], environment: dict[str, str], output: str) -> int:
    """Returns the process id in the parent; never returns in the child."""
    sys.stdout.flush()
    process_id = os.fork()
    if process_id:
        return process_id
    code = 1
    try:
        signal.alarm(LONGEST_ATTEMPT_S)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        code = main(argv)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Answers requests until the standard input ends."""
    torch.set_num_threads(1)
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    parquet_bytes([{"x": 0}])  # here Arrow imports pandas
    # Threads do not survive a fork, but the locks they hold do.
    assert threading.active_count() == 1, threading.enumerate()
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            print(start(request["start"], request["environment"], request["output"]), flush=True)
        else:
            _, status, used = os.wait4(request["wait"], 0)
            print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)


if __name__ == "__main__":
    serve()
