"""What an audit says about one question, for the terminal, the page and the file of results alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sppo_lightning.functional.intervals import Interval

_WIDEST = 0.5  # an interval from 1/4 to 3/4 leaves room for odds of 3 to 1 either way

Tone = Literal["good", "bad", "neutral", "unknown"]
"""Whether the answer speaks for the judge, against it, neither, or cannot be given from this input."""

ProgressBar = Callable[[Iterable[Any], str], Iterable[Any]]
"""Wraps an iterable and names what is waited for."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question and its answer.

    Attributes:
        key: its name in audit.json.
        question: as a person would ask it.
        answer: one or two sentences.
        tone: what the answer means for the judge.
        figures: (name, value) in the order in which they are read.
        notes: how to read the figures, what was left out, and what cannot be said.
        data: the numbers for audit.json and the page's drawings.
    """

    key: str
    question: str
    answer: str
    tone: Tone
    figures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


def too_wide(rate: Interval) -> str:
    """Why a rate whose interval holds 1/2 is no evidence that there is no bias; empty where it is."""
    if rate.high - rate.low <= _WIDEST:
        return ""
    return f"Cannot be said: the interval {rate} is too wide, a strong bias either way would fit; judge more prompts."


def counted(number: int, noun: str) -> str:
    """`1 prompt`, `1,200 prompts`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def numbers(interval: Interval) -> dict[str, float | None]:
    """An interval for audit.json, where an unbounded end is null."""
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in ends.items()}
