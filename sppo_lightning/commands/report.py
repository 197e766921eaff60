"""`python -m sppo_lightning report`: one run, or several side by side, as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from sppo_lightning.errors import ConfigError
from sppo_lightning.io.files import atomic_write
from sppo_lightning.reporting.page import render
from sppo_lightning.reporting.record import read_run


def main(argv: list[str]) -> int:
    """Runs the verb.

    Args:
        argv: the arguments behind `report`.

    Returns:
        0.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: a folder is not a run folder.
        RunFolderError: the page cannot be written.
    """
    parser = ArgumentParser(
        prog="python -m sppo_lightning report",
        description="One run, or several side by side, as one self-contained HTML page.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=str, nargs="+", help="run folders, such as runs/quickstart; they may be in use")
    parser.add_argument(
        "--out",
        type=str | None,
        help="the file to write; not set: report.html in the run's folder, or here for several",
    )
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"report: {reason}; see python -m sppo_lightning report --help") from error
    runs = [read_run(path) for path in dict.fromkeys(options.runs)]
    out = Path(options.out or (runs[0].path / "report.html" if len(runs) == 1 else "report.html"))
    page, _ = render(runs)
    with atomic_write(out, kind="report") as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"wrote {out} ({len(page) / 1e6:.1f} MB): open it in a browser")
    return 0
