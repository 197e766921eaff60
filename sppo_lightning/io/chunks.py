"""Numbered chunks of a long stage's output; each file's name proves its content.

A stage writes `00000-<hash>.parquet`, `00001-<hash>.parquet`, ... into one folder, about a minute's work each. The hash
is the first 12 hexadecimal digits of the SHA-256 of the bytes, so one rename finishes a chunk: there is no second file
that a kill could separate from it, and a chunk that can be found is complete.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pyarrow as pa

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.files import atomic_write, read_bytes
from sppo_lightning.io.tables import Rows, parquet_bytes, parse_parquet

_NAME = re.compile(r"(\d{5,})-([0-9a-f]{12})\.parquet")


def write_chunk(
    folder: str | Path, index: int, rows: Rows, schema: pa.Schema | None = None, kind: str = "chunk"
) -> Path:
    """Writes chunk `index`, complete or not at all. Writing equal data again changes nothing.

    Args:
        folder: the stage's folder; made if missing.
        index: 0-based number of the chunk.
        rows: the chunk's table.
        schema: column types, see `io.tables.write_table`; give it, or the chunks of one folder may differ in type.
        kind: see `io.files.atomic_write`.

    Returns:
        The file.

    Raises:
        RunFolderError: there is a chunk of this number with other data, or the disk refused.
    """
    content = parquet_bytes(rows, schema)
    path = Path(folder) / f"{index:05d}-{_hash(content)}.parquet"
    present = find_chunk(folder, index)
    if present is not None and present != path:
        raise RunFolderError(
            f"{present}: chunk {index} is there already and holds other data than the new {path.name}; a finished "
            "chunk is never replaced. If it should be made again, delete exactly this file first"
        )
    with atomic_write(path, kind) as temporary:
        temporary.write_bytes(content)
    return path


def find_chunk(folder: str | Path, index: int) -> Path | None:
    """The file of chunk `index`, or None if it was not finished.

    Raises:
        RunFolderError: two files for one number.
    """
    return list_chunks(folder).get(index)


def list_chunks(folder: str | Path) -> dict[int, Path]:
    """All finished chunks of a folder by number, in order; empty if there is no such folder.

    Files with other names are not looked at.

    Raises:
        RunFolderError: two files for one number.
    """
    chunks: dict[int, Path] = {}
    for path in sorted(Path(folder).glob("*.parquet")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        index = int(match[1])
        if index in chunks:
            raise RunFolderError(
                f"{folder}: two files for chunk {index}: {chunks[index].name} and {path.name}. Only one of them was "
                "written by this run; delete the other (`sha256sum` begins with the digits in a whole file's name)"
            )
        chunks[index] = path
    return dict(sorted(chunks.items()))


def read_chunk(path: str | Path) -> pa.Table:
    """Reads a chunk and proves by its name that it is what was written.

    Raises:
        RunFolderError: the file is missing, empty, cut off or changed, or its name is not a chunk's.
    """
    match = _NAME.fullmatch(Path(path).name)
    if match is None:
        raise RunFolderError(f"{path}: is not named as a chunk (00003-0123456789ab.parquet); was it renamed?")
    content = read_bytes(path)
    if _hash(content) != match[2]:
        raise RunFolderError(
            f"{path}: is damaged: its {len(content)} bytes have a hash that begins with {_hash(content)}, its name "
            f"says {match[2]}. Restore it from a copy, or delete exactly this file and run the same command again: "
            "only this chunk is made again"
        )
    return parse_parquet(content, path)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
