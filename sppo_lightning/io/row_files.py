"""Files of rows: each reader turns one kind of file into (where, row) pairs and knows nothing of prompts.

`where` is for people: "prompts.jsonl, line 3", or "prompts.parquet, row index 3" where a file has no lines. Nothing is
ever unpickled.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sppo_lightning.errors import DataError

_MAX_LINE_BYTES = 8 * 2**20
"""Longer lines are a missing line break, not a row; without a limit one could fill the memory."""

_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy", ".npz"}


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of one file, by its suffix: .jsonl, .json (a list), .txt (a line a row), .csv or .parquet.

    Args:
        path: the file; a symlink to one is fine.

    Yields:
        (where, row): a dictionary, a string, or whatever else the file holds.

    Raises:
        DataError: the file cannot be read as what its name says; names the file, and the line where there are lines.
    """
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise DataError(f"{path}: a {suffix} file can run code when it is opened and is never read; save it as .jsonl")
    if suffix not in READERS:
        raise DataError(f"{path}: the suffix {suffix!r} is not one of {', '.join(READERS)}; rename or convert it")
    try:
        yield from READERS[suffix](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank. Only a line feed ends a line: U+2028 inside a JSON string is data."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > _MAX_LINE_BYTES:
                raise DataError(
                    f"{where}: is longer than {_MAX_LINE_BYTES // 2**20} MB; is a line break missing, or is this one "
                    "JSON list (then name it .json)?"
                )
            text = _decode(line, where, first=number == 1)
            if text.strip():
                yield where, text.rstrip("\r\n")


def _decode(content: bytes, where: str, first: bool = True) -> str:
    """UTF-8 with or without a byte order mark at the file's start; NUL bytes are refused."""
    try:
        text = content.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        at = error.start + len(content) - len(error.object)  # the codec does not count the byte order mark
        raise DataError(
            f"{where}, byte {at + 1}: is not UTF-8 (0x{content[at]:02x}: {error.reason}); save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(f"{where}, byte {content.index(0) + 1}: a NUL byte; the file is binary or damaged")
    return text


def _decode_file(path: Path) -> str:
    """The whole text; an error names the line, as `_lines` does."""
    content = path.read_bytes()
    try:
        return _decode(content, str(path))
    except DataError:
        for number, line in enumerate(content.split(b"\n"), start=1):
            _decode(line, f"{path}, line {number}", first=number == 1)
        raise


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        whole_file = "\n" in text
        place = f"line {error.lineno} column {error.colno}" if whole_file else f"column {error.colno}"
        hint = "; is it JSON Lines (then name it .jsonl)?" if whole_file and error.msg == "Extra data" else ""
        raise DataError(f"{where}: is not JSON: {error.msg} ({place}){hint}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON that can be read: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a field stands twice in one object: {next(n for n in names if names.count(n) > 1)!r}")
    return fields


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for where, line in _lines(path):
        yield where, _parse_json(line, where)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    text = _decode_file(path)
    if not text.strip():
        return
    rows = _parse_json(text, str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: must hold a JSON list of rows, not {_kind(rows)}")
    for index, row in enumerate(rows):
        yield f"{path}, index {index}", row


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else f"{value!r:.40}"


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    # strict: a quote that is never closed is an error instead of one long field.
    reader = csv.reader(io.StringIO(_decode_file(path), newline=""), strict=True)
    header: list[str] = []
    try:
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if not values:
                continue
            if not header:
                header = values
                if len(set(header)) < len(header):
                    raise DataError(f"{where}: two columns have one name; the header is {', '.join(header)}")
            elif len(values) != len(header):
                raise DataError(
                    f"{where}: has {len(values)} fields, the header {len(header)} ({', '.join(header)}); is a quote "
                    "missing?"
                )
            else:
                yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: is not CSV: {error}; long texts belong in .jsonl") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    index = 0
    with path.open("rb") as file:
        try:
            table = pq.ParquetFile(file)
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{path}: two columns have one name; it has {', '.join(names)}")
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield f"{path}, row index {index}", row
                    index += 1
        except DataError:
            raise
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: a text after row index {index} is not UTF-8: {error.reason}") from error
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: is not a whole parquet file: {error}; was it cut off while copying?") from error


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".txt": _lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""Suffix -> reader."""
