"""The audit as one HTML file: nothing in it comes from elsewhere; light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sppo_lightning import __version__
from sppo_lightning.commands.audit_section import Section
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.files import atomic_write

_MAX_ROWS = 100
_TONES = {"good": "fine", "bad": "look here", "neutral": "know this", "unknown": "cannot be said"}


def write_page(path: Path, title: str, lines: Sequence[str], sections: Sequence[Section]) -> None:
    """Writes the page, complete or not at all.

    Args:
        path: the file.
        title: the heading.
        lines: what the input holds.
        sections: the answers.

    Raises:
        RunFolderError: the disk refused.
    """
    template = Path(resolve("package:audit.html"))
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_key = {section.key: section.data for section in sections}
    rows = by_key["answers"].get("by_prompt", [])
    text = environment.get_template(template.name).render(
        title=title,
        lines=lines,
        sections=sections,
        tones=_TONES,
        rows=sorted(rows, key=lambda row: (-row["borda_gap"], -row["distance"]))[:_MAX_ROWS],
        num_rows=len(rows),
        version=__version__,
    )
    with atomic_write(path, "page") as temporary:
        temporary.write_text(text, encoding="utf-8")
