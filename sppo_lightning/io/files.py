"""Files that are complete or absent, whenever the process dies.

Everything is written under a temporary name in its own folder, flushed to the disk, and renamed in one step. What a
killed process leaves behind ends in `TEMPORARY_SUFFIX` and is removed by `sweep_temporaries`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.crash_points import crash_point

TEMPORARY_SUFFIX = ".sppo-tmp"
"""What the names of unfinished files and folders end in."""


@contextmanager
def atomic_write(path: str | Path, kind: str = "file") -> Iterator[Path]:
    """Yields a temporary path to write a file to; gives it its final name when the block ends well.

    If the block raises, the temporary is removed and whatever stood at `path` is untouched. A symlink at `path` is
    replaced, not followed.

    Args:
        path: the final name; missing parent folders are made.
        kind: what the file is ("candidates", "manifest", "checkpoint"), for the names of the crash points
            `before_write:<kind>`, `before_rename:<kind>` and `after_rename:<kind>`.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        RunFolderError: the disk refused (full, read-only, no permission).
    """
    path = Path(path)
    with _temporary_beside(path, kind) as temporary:
        yield temporary
        _flush(temporary)
        crash_point(f"before_rename:{kind}")
        temporary.replace(path)


@contextmanager
def atomic_folder(path: str | Path, kind: str = "folder") -> Iterator[Path]:
    """Yields a new temporary folder to fill; gives it its final name when the block ends well.

    A folder cannot be exchanged for another in one step on every system, so `path` must not exist.

    Args:
        path: the final name; missing parent folders are made.
        kind: see `atomic_write`.

    Yields:
        An empty folder beside `path`.

    Raises:
        RunFolderError: `path` exists already, or the disk refused.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise RunFolderError(f"{path}: exists already and a finished folder is never overwritten; move it away first")
    with _temporary_beside(path, kind) as temporary:
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _flush(Path(folder, name))
            _flush_folder(Path(folder))
        crash_point(f"before_rename:{kind}")
        temporary.rename(path)


@contextmanager
def _temporary_beside(path: Path, kind: str) -> Iterator[Path]:
    """A name in the folder of `path`, removed when the block fails; the folder is flushed when it ends well."""
    # A few letters of the name tell a person what was lost; all of them could exceed the longest name allowed.
    temporary = path.parent / f".{path.name[:32]}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        crash_point(f"before_write:{kind}")
        yield temporary
        _flush_folder(path.parent)
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be written: {error}. Nothing half-written is left. Make room on the disk or correct the "
            "permissions, then run the same command again"
        ) from error
    finally:
        _remove(temporary)
    crash_point(f"after_rename:{kind}")


def _flush(file: Path) -> None:
    # Windows flushes only files opened for writing.
    with file.open("r+b") as handle:
        os.fsync(handle.fileno())


def _flush_folder(folder: Path) -> None:
    """Makes a rename inside the folder survive a power cut; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def sweep_temporaries(folder: str | Path) -> list[Path]:
    """Removes what killed processes left unfinished anywhere below `folder`.

    Call it only while holding the run folder's lock: it would also remove what a living process is writing.

    Args:
        folder: where to look, at any depth; symlinks are not followed.

    Returns:
        The removed paths, sorted.
    """
    removed = []
    for parent, folders, names in os.walk(folder):
        unfinished = [name for name in (*folders, *names) if name.endswith(TEMPORARY_SUFFIX)]
        folders[:] = [name for name in folders if name not in unfinished]
        for name in unfinished:
            _remove(Path(parent, name))
            removed.append(Path(parent, name))
    return sorted(removed)


def link(source: Path, target: Path) -> None:
    """A hard link: finished files never change; a copy where the two lie on different file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path) -> None:
    """Hard links of every file of a folder, in a new folder; its parent folders are made."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        destination = target / path.relative_to(source)
        if path.is_dir():
            destination.mkdir()
        else:
            link(path, destination)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        RunFolderError: the file is missing or cannot be read.
    """
    with _readable(Path(path)), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
        RunFolderError: the file is missing or cannot be read.
    """
    with _readable(Path(path)):
        return Path(path).read_bytes()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: is missing; restore it from a copy of the run folder") from error
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read: {error}") from error


def write_json_atomic(path: str | Path, value: Any, kind: str = "json") -> None:
    """Writes `value` as indented JSON, complete or not at all.

    Args:
        path: the final name.
        value: anything `json` takes. NaN and infinities are written as Python writes them and `read_json` reads them.
        kind: see `atomic_write`.

    Raises:
        RunFolderError: the disk refused.
    """
    text = json.dumps(value, indent=2)
    with atomic_write(path, kind) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Reads what `write_json_atomic` wrote.

    Raises:
        RunFolderError: the file is missing or is not JSON.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path}: is damaged ({len(content)} bytes, not JSON: {error}); restore it from a copy of the run folder"
        ) from error
