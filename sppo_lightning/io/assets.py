"""Files that ship inside the package: `package:quickstart/prompts.jsonl` stands wherever a path may stand."""

from __future__ import annotations

import difflib
from pathlib import Path

from sppo_lightning.errors import DataError

SCHEME = "package:"
_ROOT = Path(__file__).resolve().parents[1] / "assets"


def resolve(source: str) -> str:
    """Turns `package:<name>` into the path of that file or folder; any other source is returned as it is.

    Args:
        source: a path, a hub id, or a name such as `package:quickstart/policy`.

    Returns:
        A path or hub id.

    Raises:
        DataError: the package has no such file, or the name leads out of the package's assets.
    """
    if not source.startswith(SCHEME):
        return source
    name = source.removeprefix(SCHEME)
    try:
        path = (_ROOT / name).resolve()
    except (OSError, ValueError) as error:
        raise DataError(f"{source!r}: is not a name: {error}") from error
    if not path.is_relative_to(_ROOT):
        raise DataError(f"{source!r}: leads out of the package's assets; give other files by their path alone")
    if not path.exists():
        known = sorted(path.relative_to(_ROOT).as_posix() for path in _ROOT.rglob("*"))
        close = difflib.get_close_matches(name, known, n=3) or known
        raise DataError(f"{source!r}: the package ships no such file; it has {', '.join(close) or 'none at all'}")
    return str(path)
