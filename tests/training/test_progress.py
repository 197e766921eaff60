import io
import itertools
import os
import re

import pytest

from sppo_lightning.training import progress
from sppo_lightning.training.progress import NullProgress, StageProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now_s = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now_s)
    return Clock


def screen(written):
    """The lines that a terminal shows in the end."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", written):
        if part == "\x1b[A":
            row -= 1
        elif part == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif part != "\r":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
        column = column + len(part) if part not in ("\x1b[A", "\r", "\n") else 0 if part == "\r" else column
    return [line.rstrip() for line in lines if line.strip()]


def run_stage(log, clock, num_updates, seconds_an_update):
    bar = StageProgress(stream=log)("round 3: generating", 640, "responses")
    for _ in range(num_updates):
        clock.now_s += seconds_an_update
        bar.update(16)
    bar.close()
    return log.getvalue().splitlines()


def test_a_log_gets_a_line_at_the_start_and_one_at_the_end(clock):
    assert run_stage(io.StringIO(), clock, num_updates=40, seconds_an_update=0.2) == [
        "round 3: generating: 640 responses",
        "round 3: generating: 640 responses in 00:08, 80.00 responses/s",
    ]


def test_a_log_gets_at_most_a_line_every_15_seconds(clock):
    lines = run_stage(io.StringIO(), clock, num_updates=40, seconds_an_update=1.0)
    assert lines[1:] == [
        "round 3: generating: 240/640 responses (38%), 16.00 responses/s, 00:25 left",
        "round 3: generating: 480/640 responses (75%), 16.00 responses/s, 00:10 left",
        "round 3: generating: 640 responses in 00:40, 16.00 responses/s",
    ]


def test_a_log_says_where_a_stage_stopped(clock):
    lines = run_stage(io.StringIO(), clock, num_updates=2, seconds_an_update=4.0)
    assert lines[-1] == "round 3: generating: stopped at 32 of 640 responses in 00:08, 4.00 responses/s"


def test_a_bar_closed_twice_says_so_once(clock):
    log = io.StringIO()
    bar = StageProgress(stream=log)("judging", 4, "pairs")
    bar.close()
    bar.close()
    assert len(log.getvalue().splitlines()) == 2


def test_a_stage_of_nothing_passes(clock):
    log = io.StringIO()
    StageProgress(stream=log)("judging", 0, "pairs").close()
    assert log.getvalue().splitlines() == ["judging: 0 pairs", "judging: 0 pairs in 00:00, 0.00 pairs/s"]


def test_a_terminal_gets_a_live_bar_with_rate_and_time_left():
    terminal = Terminal()
    bar = StageProgress(stream=terminal)("judging", 100, "pairs")
    bar.update(25)
    bar.close()
    shown = terminal.getvalue()
    assert "\r" in shown
    last = shown.split("\r")[-1]
    assert last.startswith("judging:  25%|")
    assert "25/100 pairs [" in last
    assert " pairs/s]" in last


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_bars_below_each_other_are_shown_once_whichever_ends_first(order):
    terminal = Terminal()
    progress_of = StageProgress(stream=terminal)
    names = ["generating", "judging", "reference"]
    bars = [progress_of(name, 4, "pairs") for name in names]
    for bar in bars:
        bar.update(2)
    going_on = list(order)
    for number in order:
        bars[number].update(2)
        bars[number].close()
        going_on.remove(number)
        for other in going_on:
            bars[other].refresh()
    last = progress_of("training", 1, "steps")
    last.update(1)
    last.close()
    shown = screen(terminal.getvalue())
    assert [line.split(":")[0] for line in shown] == [*(names[number] for number in order), "training"]
    assert all("100%" in line for line in shown)


def test_what_is_said_is_said_once_and_above_the_bars():
    terminal = Terminal()
    progress_of = StageProgress(stream=terminal)
    bar = progress_of("judging", 4, "pairs")
    for _ in range(2):
        progress_of.say("stages overlap")
    bar.close()
    assert [line.split(":")[0] for line in screen(terminal.getvalue())] == ["stages overlap", "judging"]


def test_standard_error_is_the_default(capsys):
    StageProgress()("reference", 3, "rows").close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("reference: 3 rows\n")


@pytest.mark.parametrize("quiet", [StageProgress(rank=1), StageProgress(enabled=False), NullProgress()])
def test_others_are_silent(quiet, capsys):
    bar = quiet("generating", 3, "responses")
    quiet.say("stages overlap")
    bar.update(3)
    bar.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("columns", "bars"), [(0, False), (100, True)])
def test_a_terminal_of_no_width_gets_lines(columns, bars, monkeypatch):
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda fd: os.terminal_size((columns, 24)))
    terminal = Terminal()
    terminal.fileno = lambda: 2
    bar = StageProgress(stream=terminal)("round 0: judging", 4, "pairs")
    bar.update(4)
    bar.close()
    assert ("100%|" in terminal.getvalue()) == bars
    assert ("judging: 4 pairs in" in terminal.getvalue()) != bars
