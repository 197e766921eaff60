"""Stages side by side: who may work when, and that nothing is left running when one of them fails."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter

import pytest
import torch

from sppo_lightning.selfplay.pipeline import Job, overlapping, run_jobs
from sppo_lightning.training.progress import NullProgress

PATIENCE_S = 30


class Shop:
    """Jobs that write down what happens; `on[stage, chunk]` is called in the middle of making that chunk."""

    def __init__(self):
        self.events, self.on, self.at_work, self.most_at_work = [], {}, Counter(), Counter()
        self._lock = threading.Lock()

    def job(self, stage, chunks, place="cpu", **relations):
        def make(chunk):
            with self._lock:
                self.at_work[place] += 1
                self.most_at_work[place] = max(self.most_at_work[place], self.at_work[place])
            self.on.get((stage, chunk), lambda: None)()
            with self._lock:
                self.at_work[place] -= 1
                self.events.append((stage, chunk))

        return Job(
            stage=stage,
            place=place,
            units=dict.fromkeys(chunks, 1),
            make=make,
            close=lambda: self.events.append((stage, "closed")),
            open_bar=lambda: NullProgress()("", 0, ""),
            **relations,
        )

    def round(self, num_chunks=3, places=("cpu", "cpu", "cpu")):
        """Generating, judging, and the reference pass."""
        generate = self.job("generate", range(num_chunks), places[0])
        judge = self.job("judge", range(num_chunks), places[1], uses=[generate])
        reference = self.job("reference", range(num_chunks), places[2], uses=[judge])
        return [generate, judge, reference]


@pytest.fixture
def shop():
    """A new one; whatever a test leaves running fails it."""
    before = set(threading.enumerate())
    yield Shop()
    assert set(threading.enumerate()) <= before


def waiting_for(event):
    """Something to do in a chunk that ends when `event` is set."""

    def wait():
        assert event.wait(PATIENCE_S), "nothing else went on meanwhile"

    return wait


def run(jobs, cpu_at_once):
    stages = []
    seconds = run_jobs(jobs, cpu_at_once, stages.append)
    assert set(seconds) == {job.stage for job in jobs}
    return stages


def test_one_at_a_time_is_in_order(shop):
    assert run(shop.round(), 1) == ["generate", "judge", "reference"]
    assert shop.events == [
        (stage, piece) for stage in ("generate", "judge", "reference") for piece in (0, 1, 2, "closed")
    ]


def test_chunks_are_judged_while_the_next_are_generated(shop):
    for pair in ([("generate", 1), ("judge", 0)], [("judge", 2), ("reference", 1)]):
        at_once = threading.Barrier(2, timeout=PATIENCE_S)
        shop.on |= dict.fromkeys(pair, at_once.wait)
    assert run(shop.round(), 2) == ["generate", "judge", "reference"]
    assert shop.most_at_work["cpu"] == 2
    for stage, needed in (("judge", "generate"), ("reference", "judge")):
        for chunk in range(3):
            assert shop.events.index((needed, chunk)) < shop.events.index((stage, chunk))


@pytest.mark.parametrize("cpu_at_once", [1, 2, 3])
def test_no_more_work_on_the_cpu_than_there_is_room(shop, cpu_at_once):
    meeting = threading.Barrier(cpu_at_once, timeout=PATIENCE_S)
    jobs = [shop.job(f"stage {number}", range(6)) for number in range(8)]
    for number, job in enumerate(jobs):
        # Long enough to be at work together if there were no limit; nothing depends on it otherwise.
        shop.on |= {(job.stage, chunk): lambda: time.sleep(0.005) for chunk in range(6)}
        if number < cpu_at_once:
            shop.on[job.stage, 0] = meeting.wait
    run(jobs, cpu_at_once)
    assert shop.most_at_work["cpu"] == cpu_at_once


def test_a_device_belongs_to_one_stage_until_it_is_closed(shop):
    judged = threading.Event()
    shop.on = {("generate", 2): waiting_for(judged), ("judge", 1): judged.set}
    run(shop.round(places=("cuda:0", "elsewhere", "cuda:0")), 1)
    assert shop.events.index(("generate", "closed")) < shop.events.index(("reference", 0))


def test_a_stage_that_is_whole_keeps_nobody_waiting(shop):
    generate, judge = shop.job("generate", []), shop.job("judge", [1, 2])
    judge.uses = [generate]
    reference = shop.job("reference", [0, 1, 2], uses=[judge])
    assert run([generate, judge, reference], 2) == ["judge", "reference"]
    assert ("generate", "closed") not in shop.events, "it was never opened"


@pytest.mark.parametrize(
    ("places", "num_chunks", "cpu_at_once", "expected"),
    [
        (("cpu", "cpu", "cpu"), 3, 1, []),
        (("cpu", "cpu", "cpu"), 3, 2, ["generate", "judge", "reference"]),
        (("cpu", "cpu", "cpu"), 1, 2, []),
        (("cuda:0", "cuda:0", "cuda:0"), 3, 2, []),
        (("cuda:0", "cpu", "cuda:0"), 3, 1, ["generate", "judge", "reference"]),
        (("elsewhere", "elsewhere", "cuda:0"), 3, 1, ["generate", "judge", "reference"]),
    ],
)
def test_what_overlaps_is_known_before(shop, places, num_chunks, cpu_at_once, expected):
    assert overlapping(shop.round(num_chunks, places), cpu_at_once) == expected


class StageError(Exception):
    pass


def fail():
    raise StageError


def busy_until(release):
    """Work that goes on for ever, in Python, and does not mind exceptions."""

    def work():
        release.set()
        while True:
            with contextlib.suppress(Exception):
                sum(range(1000))

    return work


def test_a_failure_stops_the_others_in_the_middle_of_their_work(shop):
    busy = threading.Event()

    def fail_meanwhile():
        waiting_for(busy)()
        fail()

    shop.on = {("generate", 2): busy_until(busy), ("judge", 1): fail_meanwhile}
    with pytest.raises(StageError):
        run(shop.round(), 2)
    assert {event for event in shop.events if event[1] == "closed" and event[0] != "reference"} == {
        ("generate", "closed"),
        ("judge", "closed"),
    }
    assert {("generate", 0), ("generate", 1), ("judge", 0)} <= set(shop.events)
    assert not {("generate", 2), ("judge", 1), ("judge", 2)} & set(shop.events)


def test_an_interrupt_stops_everybody(shop):
    busy = threading.Event()

    def interrupt():
        waiting_for(busy)()
        os.kill(os.getpid(), signal.SIGINT)
        busy_until(threading.Event())()

    shop.on = {("generate", 1): busy_until(busy), ("judge", 0): interrupt}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(shop.round(), 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert {("generate", "closed"), ("judge", "closed")} <= set(shop.events)


@pytest.mark.parametrize("grad", [True, False])
def test_threads_take_over_the_gradient_mode(shop, grad):
    seen = []
    shop.on = {(stage, 0): lambda: seen.append(torch.is_grad_enabled()) for stage in ("generate", "judge")}
    with torch.set_grad_enabled(grad):
        run(shop.round(), 2)
    assert seen == [grad, grad]
