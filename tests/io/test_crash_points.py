"""Kills real processes with SIGKILL while they write, and looks at what is on the disk afterwards."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sppo_lightning.io.chunks import list_chunks, read_chunk
from sppo_lightning.io.files import read_json, sweep_temporaries

# Imports once, then forks a process for each line "folder|SPPO_CRASH_AT|SPPO_CRASH_LOG" and answers with its exit code.
# The forked process plays a stage in small: it skips what is whole, writes the rest, and closes with a manifest and an
# exported folder.
LAUNCHER = """
import os, sys
from pathlib import Path
from sppo_lightning.io.chunks import find_chunk, write_chunk
from sppo_lightning.io.files import atomic_folder, sweep_temporaries, write_json_atomic
from sppo_lightning.io.tables import parquet_bytes

def play(run):
    sweep_temporaries(run)
    for index in range(3):
        if find_chunk(run / "candidates", index) is None:
            rows = [{"prompt_id": f"p{index}-{i}", "x": i} for i in range(50)]
            write_chunk(run / "candidates", index, rows, kind="candidates")
    write_json_atomic(run / "manifest.json", {"chunks": 3}, kind="manifest")
    if not (run / "export").exists():
        with atomic_folder(run / "export", kind="export") as folder:
            (folder / "a").write_text("a" * 1000)
            (folder / "b").write_text("b" * 1000)

parquet_bytes([{"x": 0}])  # here Arrow imports pandas, once instead of in every child
for line in sys.stdin:
    run, os.environ["SPPO_CRASH_AT"], os.environ["SPPO_CRASH_LOG"] = line.rstrip("\\n").split("|")
    if os.fork() == 0:
        play(Path(run))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
POINTS = [
    f"{place}:{kind}:{time}"
    for kind, times in (("candidates", 3), ("manifest", 1), ("export", 1))
    for time in range(1, times + 1)
    for place in ("before_write", "before_rename", "after_rename")
]


@pytest.fixture(scope="module")
def play():
    """play(run, crash_at="", log="") -> exit code of a process that played the stage in the folder `run`."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    def play(run: Path, crash_at: str = "", log: str = "") -> int:
        launcher.stdin.write(f"{run}|{crash_at}|{log}\n")
        return int(launcher.stdout.readline())

    yield play
    launcher.communicate()


def assert_nothing_is_torn(run: Path) -> None:
    for path in list_chunks(run / "candidates").values():
        assert read_chunk(path).num_rows == 50
    if (run / "manifest.json").exists():
        assert read_json(run / "manifest.json") == {"chunks": 3}
        assert len(list_chunks(run / "candidates")) == 3
    if (run / "export").exists():
        assert [(run / "export" / name).read_text() for name in "ab"] == ["a" * 1000, "b" * 1000]


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(play, tmp_path_factory) -> tuple[dict[str, bytes], list[str]]:
    run, log = tmp_path_factory.mktemp("uninterrupted"), tmp_path_factory.mktemp("log") / "points"
    assert play(run, log=str(log)) == 0
    return contents(run), log.read_text().splitlines()


def test_the_log_lists_every_point_that_a_kill_can_name(uninterrupted):
    passed = uninterrupted[1]
    assert [f"{name}:{passed[: i + 1].count(name)}" for i, name in enumerate(passed)] == POINTS


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_named_point_tears_nothing_and_the_rest_is_made(point, play, tmp_path, uninterrupted):
    assert play(tmp_path, crash_at=point) == -signal.SIGKILL
    assert_nothing_is_torn(tmp_path)
    assert play(tmp_path) == 0
    assert contents(tmp_path) == uninterrupted[0]


# Replaces one file for ever, with contents of several sizes that name themselves.
REWRITER = """
import sys
from sppo_lightning.io.files import atomic_write
n = 0
while True:
    n += 1
    with atomic_write(sys.argv[1]) as temporary, temporary.open("wb") as file:
        for _ in range(n % 7 + 1):
            file.write(f"{n % 10}".encode() * 200_000)
    if n == 1:
        print("started", flush=True)
"""


@pytest.mark.parametrize("seed", range(8))
def test_kills_at_random_moments_never_show_half_a_file(seed, tmp_path):
    path = tmp_path / "state"
    process = subprocess.Popen([sys.executable, "-c", REWRITER, path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"started\n"
        time.sleep(random.Random(seed).uniform(0, 0.1))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    content = path.read_bytes()
    assert len(set(content)) == 1
    assert len(content) % 200_000 == 0
    assert len(content) > 0
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
