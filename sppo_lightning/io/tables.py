"""Parquet tables whose bytes depend on their data alone, so that a hash tells whether they are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.files import atomic_write, read_bytes

Rows: TypeAlias = pa.Table | Sequence[Mapping[str, Any]]
"""A table, or its rows as dictionaries that all have the same keys."""


def write_table(path: str | Path, rows: Rows, schema: pa.Schema | None = None, kind: str = "table") -> str:
    """Writes one parquet file, complete or not at all.

    Args:
        path: the final name.
        rows: what to write.
        schema: column types; without it they are guessed from the rows, and a column of only empty lists or None has
            no type.
        kind: see `io.files.atomic_write`.

    Returns:
        The SHA-256 of the file, 64 hexadecimal digits, for `read_table`.

    Raises:
        ValueError: rows with different keys.
        RunFolderError: the disk refused.
    """
    content = parquet_bytes(rows, schema)
    with atomic_write(path, kind) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_table(path: str | Path, expected_sha256: str | None = None) -> pa.Table:
    """Reads one parquet file and proves that it is what was written.

    Args:
        path: the file.
        expected_sha256: what `write_table` returned; None trusts the file if it can be parsed.

    Raises:
        RunFolderError: the file is missing, cut off, changed, or not parquet.
    """
    content = read_bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if expected_sha256 is not None and found != expected_sha256:
        raise RunFolderError(
            f"{path}: is damaged or was changed: {len(content)} bytes with SHA-256 {found[:12]}..., expected "
            f"{expected_sha256[:12]}...; restore it from a copy of the run folder"
        )
    return parse_parquet(content, path)


def parquet_bytes(rows: Rows, schema: pa.Schema | None = None) -> bytes:
    """The parquet file of `rows`: equal data and types give equal bytes under one version of pyarrow.

    Raises:
        ValueError: rows with different keys.
    """
    table = rows if isinstance(rows, pa.Table) else _table_of(rows, schema)
    if schema is not None:
        table = table.cast(schema)
    # How a table was glued together, notes such as pandas', and what Arrow calls the items of a list (it differs before
    # and after a file) must not change the bytes.
    table = table.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", store_schema=False)
    return sink.getvalue().to_pybytes()


def _table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None) -> pa.Table:
    # Arrow takes the columns of the first row and silently drops what only later rows have.
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise ValueError(f"row {number} has the columns {sorted(row)}, row 0 has {sorted(rows[0])}")
    return pa.Table.from_pylist(list(rows), schema=schema)


def parse_parquet(content: bytes, path: str | Path) -> pa.Table:
    """Reads a parquet file's bytes; `path` is for the error.

    Raises:
        RunFolderError: these bytes are not a whole parquet file.
    """
    try:
        return pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(
            f"{path}: is damaged ({len(content)} bytes, not parquet: {error}); restore it from a copy of the run folder"
        ) from error
