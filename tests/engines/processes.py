"""What runs on this machine, as /proc says."""

import time
from pathlib import Path


def command_of(process_id):
    """The command line of a process; empty once it is gone or a zombie."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError:
        return []


def of_group(group_id):
    """The living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == group_id and state != "Z":
                found.append(int(entry.name))
    return found


def workers_of(parent_id):
    """Process id -> scratch folder of the workers that a process has started: both stand in their command lines."""
    commands = {int(entry.name): command_of(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return {
        process_id: Path(command[-2])
        for process_id, command in commands.items()
        if len(command) > 2 and command[-1] == str(parent_id) and "sppo-worker-" in command[-2]
    }


def wait_until(condition, at_most_s=120):
    """Polls; a condition that never holds is the test's failure, and how long it takes is not."""
    until = time.monotonic() + at_most_s
    while not (value := condition()):
        assert time.monotonic() < until, f"{condition} does not hold after {at_most_s} s"
        time.sleep(0.01)
    return value


def is_gone(process_id):
    return not of_group(process_id) and (not Path(f"/proc/{process_id}").exists() or not command_of(process_id))
