"""Where rows come from: files, folders, the package, the Hugging Face hub, or Python."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sppo_lightning.errors import DataError
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.row_files import READERS, read_rows

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def source_rows(source: str | Path | Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The rows of any source, each with words that say where it stands.

    Args:
        source: a .jsonl, .json, .txt, .csv or .parquet file; a folder of them, read in the order of their names (other
            files and subfolders in it are left alone); `package:quickstart/prompts.jsonl`; the id of a dataset on the
            hub, `owner/name`, whose "train" split is read, only if there is no such path; or the rows themselves.

    Returns:
        (where, row) pairs, at least one.

    Raises:
        DataError: the source or one of its files cannot be read, or holds no rows; some of it only when the rows are
            reached.
    """
    if not isinstance(source, str | Path):
        return _numbered(source)
    path = _path_of(source)
    if path is None:
        return _hub_rows(str(source))
    return _file_rows(path)


def _numbered(rows: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if len(rows) == 0:
        raise DataError("the list of rows is empty")
    for index, row in enumerate(rows):
        yield f"row index {index}", row


def _path_of(source: str | Path) -> Path | None:
    """The file or folder, or None if `source` can only be the name of a dataset on the hub."""
    name = resolve(str(source))
    if not name.strip():
        raise DataError("data.prompts is empty; give a file, a folder or the id of a dataset")
    path = Path(name)
    try:
        if path.is_file() or path.is_dir():
            return path
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{name!r}: is not a path that can be read: {error}") from error
    if exists or "\0" in name:
        raise DataError(f"{name!r}: is neither a file nor a folder")
    if isinstance(source, str) and _HUB_ID.fullmatch(name) and path.suffix.lower() not in READERS:
        return None
    raise DataError(f"{name}: there is no such file or folder{_near(path)}")


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist either"
    close = difflib.get_close_matches(path.name, [entry.name for entry in _entries(path.parent)], n=3)
    return f"; did you mean {' or '.join(str(path.with_name(name)) for name in close)}?" if close else ""


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    files = [path]
    if path.is_dir():
        files = [entry for entry in _entries(path) if entry.suffix.lower() in READERS and entry.is_file()]
        if not files:
            raise DataError(f"{path}: the folder holds no file of prompts ({', '.join(READERS)})")
    for file in files:
        rows = read_rows(file)
        first = next(rows, None)
        if first is None:
            raise DataError(f"{file}: holds no prompts; fill it or remove it")
        yield first
        yield from rows


def _hub_rows(name: str) -> Iterator[tuple[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name}: there is no such file or folder{_near(Path(name))}. If it is a dataset on the Hugging Face hub, "
            'reading it needs one more package: pip install "sppo-lightning[hub]"'
        ) from error
    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub, the network and the dataset's own files fail in many ways
        raise DataError(
            f"{name}: there is no such file or folder, and no dataset of this name could be read from the hub: {error}"
        ) from error
    if len(rows) == 0:
        raise DataError(f"{name}: the split 'train' holds no prompts")
    for index, row in enumerate(rows):
        yield f"{name}, split train, row index {index}", row
