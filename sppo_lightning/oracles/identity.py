"""What tells one judge's verdicts from another's: its class, the arguments that decide a verdict, and their files."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sppo_lightning.io.files import sha256_of

_DEPTH = 8
_LONGEST_PATH = 1024
_PACKAGE = __name__.partition(".")[0]


def identity(judge: Any) -> str:
    """64 hexadecimal digits of the hash of everything that decides what a judge says.

    Args:
        judge: an oracle or a scorer. A class of this package is known by its name; a user's by the file it is in, too.
            Its attribute `decides`, if it has one, says what stands for arguments that do not decide as they are
            written: for a file what was read from it, not what it holds by now.

    Returns:
        the same for judges made with the same arguments, whatever process, machine or address they are at. Arguments
        that name a local file or folder count by content.
    """
    return hashlib.sha256(json.dumps(settings(judge)).encode()).hexdigest()


def settings(value: Any, depth: int = _DEPTH) -> Any:
    """The arguments that a judge was made with, nested judges' too, as JSON."""
    if isinstance(value, str):
        content = _content(value)
        return value if content is None else {"content": content}
    if isinstance(value, int | float | bool | None):
        return value
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, list | tuple):
        return [settings(item, depth - 1) for item in value]
    if isinstance(value, Mapping):
        return {str(key): settings(item, depth - 1) for key, item in value.items()}
    value = getattr(value, "itself", value)
    # An argument `scale` is kept as the attribute `scale` or `_scale`.
    names = {name: next((a for a in (name, f"_{name}") if hasattr(value, a)), None) for name in _arguments(value)}
    decides = getattr(value, "decides", {})
    kept = {
        name: settings(decides.get(name, getattr(value, place)), depth - 1) for name, place in names.items() if place
    }
    return {"class": type(value).__qualname__, **_code(type(value)), **kept}  # type: ignore[arg-type] # a class is hashable


def _arguments(value: Any) -> list[str]:
    try:
        names = list(inspect.signature(type(value)).parameters)
    except ValueError:  # a type of Python's own
        return []
    return [name for name in names if name not in getattr(value, "not_deciding", ())]


@cache  # the file may be edited while its class is in use
def _code(cls: type) -> dict[str, str]:
    """The source file of a user's class: edited, it is another judge."""
    if cls.__module__.partition(".")[0] in (_PACKAGE, "builtins"):
        return {}
    try:
        return {"code": sha256_of(inspect.getfile(cls))}
    except (TypeError, OSError):  # typed in at a prompt
        return {"code": cls.__module__}


def _content(value: str) -> str | None:
    """The content of the file or folder that an argument names, as `file`, `folder` or `file.py:function`."""
    if not value or len(value) > _LONGEST_PATH or "\0" in value:
        return None
    for name, rest in ((value, ""), value.rpartition(":")[::2]):
        path = _expanded(name)
        # Words that happen to name a folder here are words.
        if path.is_file() or (path / "config.json").is_file():
            return f"{_hash(path.resolve(), _changed(path))}{rest}"
    return None


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()  # as the judges do before they read it
    except RuntimeError:  # words that begin with a tilde, and no user's name
        return Path(name)


def _changed(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file: content is read again only after one of them changed."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return tuple((str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files)


@cache
def _hash(path: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(f"{name}\0{sha256_of(path / name)}\0".encode())
    return digest.hexdigest()
