"""Tells the person who waits how far a long stage is: a live bar on a terminal, sparse lines in a log file."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from tqdm import tqdm

from sppo_lightning.types import Progress, ProgressBar

# No bar inverts its rate to seconds a unit, as tqdm would below one a second: rates of two runs stay comparable.
_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class StageProgress(Progress):
    """Opens a bar for each long stage of a round: `progress("generating", 640, "responses")`.

    Args:
        rank: this process; only rank 0 speaks.
        enabled: False silences rank 0 too.
        stream: where to write; None is the standard error stream at the time a bar is opened.
        interval_s: the least time between two lines in a log file.
    """

    def __init__(
        self, rank: int = 0, enabled: bool = True, stream: TextIO | None = None, interval_s: float = 15.0
    ) -> None:
        self._speaks = enabled and rank == 0
        self._stream = stream
        self._interval_s = interval_s
        self._said: set[str] = set()

    def __call__(self, stage: str, total: int, unit: str) -> ProgressBar:
        """Opens a bar.

        Args:
            stage: what is being done, such as "generating".
            total: how many units that is.
            unit: what is counted, in the plural: responses, pairs, rows.
        """
        if not self._speaks:
            return _SilentBar()
        stream = self._stream or sys.stderr
        if _draws_bars(stream):
            return _Bar(
                desc=stage, total=total, unit=f" {unit}", file=stream, bar_format=_BAR_FORMAT, dynamic_ncols=True
            )
        return _LogBar(stage, total, unit, stream, self._interval_s)

    def say(self, text: str) -> None:
        """Tells something above the bars, the first time that it is said."""
        if self._speaks and text not in self._said:
            self._said.add(text)
            tqdm.write(text, file=self._stream or sys.stderr)


def _draws_bars(stream: TextIO) -> bool:
    """Whether this is a terminal with a width: in one of 0 columns, as some containers give, tqdm draws nothing."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:  # no file behind it
        return stream.isatty()


class NullProgress(Progress):
    """Says nothing; for use as a library."""

    def __call__(self, stage: str, total: int, unit: str) -> ProgressBar:
        """Returns a bar that nobody sees."""
        return _SilentBar()

    def say(self, text: str) -> None:
        """Says nothing."""


class _Bar(tqdm):
    """One of several bars below each other, of which any may end first."""

    def close(self) -> None:
        """Leaves its last state above the bars that go on; tqdm's own `close` leaves copies of those behind."""
        if self.disable:
            return
        with self.get_lock():
            bars = self._instances  # type: ignore[attr-defined]  # the stubs leave it out
            others = sorted((bar for bar in bars if bar is not self), key=lambda bar: -bar.pos)
            for bar in (self, *others):
                bar.clear(nolock=True)
            super().close()
            for place, bar in enumerate(others):
                bar.pos = -place
                bar.refresh(nolock=True)


class _SilentBar(ProgressBar):
    def update(self, n: int) -> None:
        pass

    def close(self) -> None:
        pass


class _LogBar(ProgressBar):
    """One line at the start, at most one an interval, one at the end: what survives in a job's log."""

    def __init__(self, stage: str, total: int, unit: str, stream: TextIO, interval_s: float) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._stream, self._interval_s = stream, interval_s
        self._done = 0
        self._closed = False
        self._began_s = self._spoke_s = time.monotonic()
        self._say(f"{total} {unit}")

    def update(self, n: int) -> None:
        self._done += n
        now_s = time.monotonic()
        if now_s - self._spoke_s < self._interval_s or self._done >= self._total:
            return
        self._spoke_s = now_s
        rate = self._rate(now_s)
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        share = self._done / self._total
        self._say(f"{self._done}/{self._total} {self._unit} ({share:.0%}), {rate:.2f} {self._unit}/s, {left} left")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        now_s = time.monotonic()
        count = f"{self._total}" if self._done == self._total else f"stopped at {self._done} of {self._total}"
        elapsed = tqdm.format_interval(now_s - self._began_s)
        self._say(f"{count} {self._unit} in {elapsed}, {self._rate(now_s):.2f} {self._unit}/s")

    def _rate(self, now_s: float) -> float:
        elapsed_s = now_s - self._began_s
        return self._done / elapsed_s if elapsed_s > 0 else 0.0

    def _say(self, text: str) -> None:
        # Flushed, because a redirected stream would otherwise show a minute's work an hour later.
        print(f"{self._stage}: {text}", file=self._stream, flush=True)
