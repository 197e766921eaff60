"""Named places at which a test can kill a real process.

`crash_point("before_rename:manifest")` does nothing unless one of two environment variables is set:

    SPPO_CRASH_AT="before_rename:manifest:2"   SIGKILL to this process the 2nd time it passes that point
    SPPO_CRASH_LOG=/path/to/file               append the name of each passed point, so that a test can list them all

SIGKILL, not an exception: nothing is flushed, no `finally` runs, exactly as under the kernel's out-of-memory killer.
The count is kept per process. This knows nothing of what is written; `io.files` and long stages call it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

_times_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Dies here if SPPO_CRASH_AT says so; records the name if SPPO_CRASH_LOG is set; else does nothing."""
    log = os.environ.get("SPPO_CRASH_LOG")
    if log:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    wanted, _, time = os.environ.get("SPPO_CRASH_AT", "").rpartition(":")
    if wanted != name:
        return
    _times_passed[name] += 1
    if _times_passed[name] == int(time):
        os.kill(os.getpid(), signal.SIGKILL)
