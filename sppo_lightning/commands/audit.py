"""`python -m sppo_lightning audit`: can a judge be trusted? One page in the terminal and as HTML, without training."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser
from tqdm import tqdm

from sppo_lightning.cli_files import resolve_config
from sppo_lightning.commands.audit_answers import answers, standings_lines
from sppo_lightning.commands.audit_biases import length, position
from sppo_lightning.commands.audit_calibration import calibration
from sppo_lightning.commands.audit_games import games_of
from sppo_lightning.commands.audit_page import write_page
from sppo_lightning.commands.audit_section import ProgressBar, Section, counted
from sppo_lightning.commands.audit_source import read_votes
from sppo_lightning.commands.audit_transitivity import transitivity
from sppo_lightning.errors import ConfigError
from sppo_lightning.io.files import write_json_atomic
from sppo_lightning.io.votes import Votes

_MARKS = {"good": "ok", "bad": "!!", "neutral": "--", "unknown": "??"}
_MAX_WIDTH = 110


def main(argv: list[str]) -> int:
    """Runs the verb.

    Args:
        argv: the arguments behind `audit`.

    Returns:
        0, whatever the judge is like.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: the votes cannot be read; names file and record.
    """
    try:
        settings = _parser().parse_args(argv)
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"audit: {reason}; see python -m sppo_lightning audit --help") from error
    if (settings.source is None) == (settings.config is None):
        raise ConfigError("audit: give one thing: a file of votes, a round, or --config FILE that names a judge")
    if settings.seed < 0:
        raise ConfigError(f"audit: seed must be at least 0, got {settings.seed}")
    out = Path(settings.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"audit: out: {out} is a file; give a folder for the results")
    source = resolve_config(settings.source or settings.config)
    votes = read_votes(source, settings.round, settings.oracle, _bar)
    sections = audit(votes, progress=_bar, seed=settings.seed)
    title = f"Audit of {votes.source}"
    write_json_atomic(
        out / "audit.json",
        {"source": votes.source, "summary": summary(votes)}
        | {section.key: {"answer": section.answer, "tone": section.tone} | section.data for section in sections},
    )
    write_page(out / "audit.html", title, summary(votes), sections)
    print(as_text(title, summary(votes), sections), flush=True)
    print(f"\nwrote {out / 'audit.json'}, {out / 'audit.html'}")
    return 0


def audit(votes: Votes, progress: ProgressBar, seed: int = 0) -> list[Section]:
    """Asks all questions about a judge's verdicts.

    Args:
        votes: the verdicts.
        progress: tells the person who waits.
        seed: of the simulated judges.

    Returns:
        A section for each question, those that the input cannot answer, too.
    """
    games = games_of(votes)
    return [
        transitivity(votes, games, progress, seed),
        position(votes),
        length(votes),
        calibration(votes, seed),
        answers(votes, games, progress),
    ]


def summary(votes: Votes) -> list[str]:
    """What the input holds, and how it was read."""
    cast = int(np.nansum(votes.num_votes))
    sizes = sorted({len(names) for names in votes.responses})
    responses = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    kind = counted(cast, "vote") if cast else "probabilities, no votes"
    return [
        f"{counted(len(votes.prompt_ids), 'prompt')} with {responses} responses each; "
        f"{counted(len(votes.prompt_M), 'comparison')} ({kind})",
        *votes.remarks,
    ]


def as_text(title: str, lines: Sequence[str], sections: Sequence[Section]) -> str:
    """The page for a terminal."""
    width = min(_MAX_WIDTH, shutil.get_terminal_size().columns)

    def wrapped(text: str, indent: str, first: str) -> str:
        return textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )

    page = [title, *(wrapped(line, "  ", "  ") for line in lines)]
    for section in sections:
        page += ["", f"[{_MARKS[section.tone]}] {section.question}", wrapped(section.answer, " " * 5, " " * 5)]
        name_width = max((len(name) for name, _ in section.figures), default=0)
        page += [f"       {name:{name_width}}  {value}" for name, value in section.figures]
        page += [wrapped(note, " " * 7, "     - ") for note in section.notes]
        if "standings" in section.data:
            page += [f"       {line}" for line in standings_lines(section.data["standings"])]
        page += [f"       {section.data['yaml']}"] if "yaml" in section.data else []  # in one piece, to be copied
    return "\n".join(page)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m sppo_lightning audit",
        description="Is a judge transitive beyond vote noise, biased by place or length, calibrated, and how far apart "
        "are the Nash, Borda and Condorcet answers? Prints one page and writes it as audit.html, and its numbers as "
        "audit.json. What the input cannot tell is said, not guessed.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        type=str | None,
        nargs="?",
        help="votes as .parquet, .jsonl, .json, .csv or .npz; a judged round, as its folder or RUN@round_000; or a "
        ".yaml that names a judge (data.oracle), which is asked now about the responses of a round",
    )
    parser.add_argument("--config", type=str | None, help="another way to name the .yaml")
    parser.add_argument(
        "--round",
        type=str | None,
        help="RUN@round_000: the responses that the .yaml's judge compares; not set: the newest round of its own run",
    )
    parser.add_argument("--oracle", type=str | None, help="which one, if several oracles judged the round")
    parser.add_argument("--out", type=str, default="runs/audit", help="folder for audit.html and audit.json")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated judges")
    return parser


def _bar(items: Iterable, label: str) -> Iterable:
    # Removed when done: the page is what stays.
    return tqdm(items, desc=f"audit: {label}", leave=False, file=sys.stderr, disable=None, mininterval=0.5)
