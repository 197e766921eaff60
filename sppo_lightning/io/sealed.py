"""JSON files that prove their own content: one flipped bit in a number is still JSON, but not what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.files import read_json, write_json_atomic

CHECKSUM = "checksum"
"""The last key of a sealed file: the SHA-256 of all others."""


def write_sealed_json(path: str | Path, value: Mapping[str, Any], kind: str = "json") -> None:
    """Writes an object and its checksum, complete or not at all.

    Args:
        path: the final name.
        value: text keys and anything `json` takes.
        kind: see `io.files.atomic_write`.

    Raises:
        RunFolderError: the disk refused.
    """
    write_json_atomic(path, {**value, CHECKSUM: _checksum(value)}, kind)


def read_sealed_json(path: str | Path) -> dict[str, Any]:
    """Reads what `write_sealed_json` wrote, without the checksum.

    Raises:
        RunFolderError: the file is missing, damaged or was edited.
    """
    content = read_json(path)
    value = {key: entry for key, entry in content.items() if key != CHECKSUM} if isinstance(content, dict) else {}
    recorded = content.get(CHECKSUM) if isinstance(content, dict) else None
    if recorded != _checksum(value):
        raise RunFolderError(
            f"{path}: is damaged or was edited: its content does not have the checksum it records. Restore it from a "
            f'copy of the run folder; if you edited it on purpose, set its "{CHECKSUM}" to {_checksum(value)}'
        )
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
