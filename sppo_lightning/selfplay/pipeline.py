"""The stages of a round beside each other: chunks are judged while the next are generated, and so on.

Each stage has a thread of its own, so an engine or an oracle is only ever used by one. The caller hands out the work
and waits: it alone decides what may go on at the same time and draws the progress bars, and an interrupt reaches it at
once. What is in a chunk never depends on what went on beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

from sppo_lightning.selfplay.stage_thread import Report, StageThread
from sppo_lightning.types import ProgressBar

CPU = "cpu"
ELSEWHERE = "elsewhere"
POLICY = "policy"
"""For an engine or an oracle: on the policy's device."""

_PATIENCE_S = 10.0  # with stages that cannot be interrupted because they wait outside of Python


@dataclass(eq=False, kw_only=True)
class Job:
    """What is left of one stage, or of a part of it: its chunks that are not on disk yet.

    Attributes:
        stage: "generate", "judge" or "reference".
        place: where it works: "cpu", a device such as "cuda:0", or "elsewhere" such as on a server.
        units: the missing chunks, in order -> units of work on the progress bar.
        make: makes a chunk and writes it.
        close: lets go of what `make` took.
        open_bar: opens the progress bar.
        uses: jobs whose chunk of the same number must be there before.
        after: jobs that must be over and closed before.
    """

    stage: str
    place: str
    units: dict[int, int]
    make: Callable[[int], None]
    close: Callable[[], None]
    open_bar: Callable[[], ProgressBar]
    uses: Collection[Job] = ()
    after: Collection[Job] = ()


def overlapping(jobs: Sequence[Job], cpu_at_once: int) -> list[str]:
    """The stages that will work at the same time as another one, in order.

    Args:
        jobs: see `run_jobs`.
        cpu_at_once: see `run_jobs`.
    """
    together: set[str] = set()
    busy = [job for job in jobs if job.units]
    for number, job in enumerate(busy):
        for earlier in busy[:number]:
            room = cpu_at_once > 1 or not job.place == earlier.place == CPU
            # With one chunk each there is nothing to begin before the earlier job is over.
            if room and not _must_wait(job, earlier) and max(len(job.units), len(earlier.units)) > 1:
                together |= {earlier.stage, job.stage}
    return [stage for stage in dict.fromkeys(job.stage for job in jobs) if stage in together]


def run_jobs(jobs: Sequence[Job], cpu_at_once: int, on_stage: Callable[[str], None]) -> dict[str, float]:
    """Does all jobs: side by side where they can be, else one after the other in this thread.

    Args:
        jobs: in the order in which they are done one after the other.
        cpu_at_once: how many may work on the CPU at the same time.
        on_stage: is told the name of each stage before its first chunk.

    Returns:
        stage -> seconds of work, without the waiting for other stages.

    Raises:
        BaseException: the first that a job raised; the others are stopped first, and whole chunks stay.
    """
    works: dict[Job, _Work] = {}
    for job in jobs:
        after = [work for earlier, work in works.items() if _must_wait(job, earlier)]
        works[job] = _Work(job, after, [works[used] for used in job.uses])
    crew = _Crew(list(works.values()), cpu_at_once, on_stage)
    try:
        if overlapping(jobs, cpu_at_once):
            crew.work_side_by_side()
        else:
            crew.work_one_by_one()
    finally:
        crew.stop()
    seconds = dict.fromkeys((job.stage for job in jobs), 0.0)
    for job, work in works.items():
        seconds[job.stage] += work.seconds
    return seconds


def _must_wait(job: Job, earlier: Job) -> bool:
    """A device belongs to one job at a time, from its first chunk until it is closed: memory is sized for one."""
    return earlier in job.after or (job.place == earlier.place and job.place not in (CPU, ELSEWHERE))


class _Work:
    """How far a job is. Its pieces are its chunks, one after the other, and then to close it."""

    def __init__(self, job: Job, after: Sequence[_Work], uses: Sequence[_Work]) -> None:
        self.job, self._after, self._uses = job, after, uses
        self._missing = dict.fromkeys(job.units)
        self._chunk: int | None = None
        self._bar: ProgressBar | None = None  # from the first chunk until the job is over
        self.is_at_work = False
        self.seconds = 0.0

    @property
    def is_over(self) -> bool:
        """All chunks are made, and it is closed."""
        return not self._missing and self._bar is None

    @property
    def can_go_on(self) -> bool:
        """There is a next piece, and what it needs is there."""
        if self.is_at_work or self.is_over:
            return False
        chunk = next(iter(self._missing), None)
        return all(work.is_over for work in self._after) and not any(chunk in work._missing for work in self._uses)

    @property
    def seconds_left(self) -> float:
        """By the chunks that are made; unknown is long."""
        done = len(self.job.units) - len(self._missing)
        return self.seconds / done * len(self._missing) if done else math.inf

    def begin(self) -> Callable[[], None]:
        """The next piece, to be called by whoever does it; `end` follows."""
        self.is_at_work = True
        self._chunk = next(iter(self._missing), None)
        if self._chunk is None:
            return self.job.close
        self._bar = self._bar or self.job.open_bar()
        return partial(self.job.make, self._chunk)

    def end(self, seconds: float) -> None:
        """The piece is done."""
        self.is_at_work = False
        self.seconds += seconds
        if self._chunk is not None:
            del self._missing[self._chunk]
            assert self._bar is not None
            self._bar.update(self.job.units[self._chunk])
        else:
            self._close_bar()

    def abandon(self) -> None:
        """Closes the job where it stands; what went wrong before is what counts."""
        if self._bar is not None:
            with suppress(Exception):
                self.job.close()
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@dataclass(eq=False)
class _Crew:
    """The jobs of a round at work."""

    works: list[_Work]
    cpu_at_once: int
    on_stage: Callable[[str], None]
    _threads: dict[_Work, StageThread] = field(default_factory=dict)
    _stages_begun: set[str] = field(default_factory=set)

    def work_one_by_one(self) -> None:
        """Each job waits for the one before."""
        for work in self.works:
            while not work.is_over:
                piece = self._begin(work)
                start = time.perf_counter()
                piece()
                work.end(time.perf_counter() - start)

    def work_side_by_side(self) -> None:
        """Every job that can go on does, as far as there is room on the CPU; the one with most work left first."""
        reports: SimpleQueue[Report] = SimpleQueue()
        while not all(work.is_over for work in self.works):
            for work in sorted(self.works, key=lambda work: -work.seconds_left):
                if work.can_go_on and self._has_room(work):
                    if work not in self._threads:
                        self._threads[work] = StageThread(work, f"sppo {work.job.stage}", reports)
                    self._threads[work].do(self._begin(work))
            report = reports.get()
            if report.error is not None:
                raise report.error
            report.who.end(report.seconds)

    def stop(self) -> None:
        """Ends all threads, those at work in the middle of it, and closes what is not over."""
        for work, thread in self._threads.items():
            thread.stop(in_the_middle=work.is_at_work)
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        for work in self.works:
            work.abandon()

    def _has_room(self, work: _Work) -> bool:
        on_cpu = sum(other.is_at_work and other.job.place == CPU for other in self.works)
        return work.job.place != CPU or on_cpu < self.cpu_at_once

    def _begin(self, work: _Work) -> Callable[[], None]:
        if work.job.stage not in self._stages_begun:
            self._stages_begun.add(work.job.stage)
            self.on_stage(work.job.stage)
        return work.begin()
