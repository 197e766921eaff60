"""Kills real training processes at every named point and at random times, and looks for any trace of it afterwards.

    python benchmarks/kill_series.py [--out runs/benchmarks/kill_series.json] [--random 10] [--occurrences some]

An unbroken run records the points it passes. Then, for every point and occurrence, a new run gets SIGKILL there and the
same command is given again until it ends; the random series kill attempt after attempt. Nothing may differ from the
unbroken run: exports and round data byte for byte, the metric history step by step, one MLflow run, and no finished
chunk may have been made twice. The exit code is 1 where something does. About three seconds of CPU a kill.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from loop.comparison import differences
from loop.harness import Launcher, Run, empty_store, finished_work, made_again

from sppo_lightning.io.files import write_json_atomic

# Two kinds of run, so that every stage and every kind of file is killed somewhere.
VARIANTS = {
    "self-play, SPPO, optimiser reset each round": (),
    "history opponent, INPO with anchor, optimiser kept": (
        *("--data.opponent", "History", "--model.objective", "INPO", "--model.objective.eta", "6.0"),
        *("--model.objective.tau", "0.05", "--model.reset_optimizer", "never"),
    ),
}


@dataclass(frozen=True)
class Result:
    """What became of one run: where it was killed, how often, and everything that told."""

    variant: str
    killed_at: str
    kills: int
    traces: list[str]
    cpu_s: float


class Series:
    """The runs of one variant.

    Args:
        name: the variant.
        launcher: where attempts come from.
        folder: where runs lie while they are looked at.
        store: an empty MLflow database.
    """

    def __init__(self, name: str, launcher: Launcher, folder: Path, store: Path) -> None:
        self.name, self.launcher, self.folder, self.store = name, launcher, folder, store
        self.unbroken = self._run("unbroken")
        attempt = self.unbroken.fit(crash_log=folder / "points")
        assert attempt.code == 0, attempt.output
        passed = (folder / "points").read_text().splitlines()
        self.times_passed = Counter(passed)

    def points(self, occurrences: str) -> list[str]:
        """`name:occurrence` of every point; "some" leaves out those between first, middle and last."""
        return [
            f"{name}:{occurrence}"
            for name, times in self.times_passed.items()
            for occurrence in range(1, times + 1)
            if occurrences == "all" or occurrence in (1, (times + 1) // 2, times)
        ]

    def kill_at(self, point: str) -> Result:
        """One kill at a named point, then the same command until it ends."""
        run = self._run(point.replace(":", "-"))
        first = run.fit(crash_at=point)
        finished = finished_work(run.folder)
        last = run.fit()
        traces = [f"made again: {name}" for name in made_again(finished, run.folder)]
        traces += [] if first.was_killed else ["never reached"]
        return self._result(run, point, 1, traces + self._end(run, last.code))

    def kill_at_random(self, seed: int, with_store: bool) -> Result:
        """Kills at random times until an attempt ends by itself; without a store its creation is killed as well."""
        run = self._run(f"random-{seed}-{with_store}", with_store)
        kills, again = run.fit_with_random_kills(seed, self.unbroken.attempts[0].cpu_s)
        traces = [f"made again: {name}" for name in again]
        place = f"random {seed}" + ("" if with_store else ", new MLflow database")
        return self._result(run, place, kills, traces + self._end(run, 0))

    def _end(self, run: Run, code: int) -> list[str]:
        return [f"exit code {code}"] if code else differences(run, self.unbroken)

    def _result(self, run: Run, place: str, kills: int, traces: list[str]) -> Result:
        if not traces:
            run.remove()
        return Result(self.name, place, kills, traces, sum(attempt.cpu_s for attempt in run.attempts))

    def _run(self, name: str, with_store: bool = True) -> Run:
        store = self.store if with_store else None
        return Run(self.launcher, self.folder / name, *VARIANTS[self.name], store=store)


def results(launcher: Launcher, folder: Path, occurrences: str, num_random: int) -> Iterator[Result]:
    """Every kill of every variant."""
    store = empty_store(folder / "store")
    for number, name in enumerate(VARIANTS):
        series = Series(name, launcher, folder / f"{number}", store)
        num_points, cpu_s = sum(series.times_passed.values()), series.unbroken.attempts[0].cpu_s
        print(f"{name}: unbroken in {cpu_s:.1f} s of CPU, {num_points} points", flush=True)
        for point in series.points(occurrences):
            yield series.kill_at(point)
        for seed in range(num_random):
            yield series.kill_at_random(seed, with_store=seed % 2 == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/kill_series.json"))
    parser.add_argument("--random", type=int, default=10, help="series of random kills for each variant")
    parser.add_argument("--occurrences", choices=("all", "some"), default="all", help="some: first, middle, last")
    arguments = parser.parse_args()
    launcher = Launcher()
    done: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="kill-series-") as folder:
        for result in results(launcher, Path(folder), arguments.occurrences, arguments.random):
            done.append(result)
            verdict = "no trace" if not result.traces else "; ".join(result.traces)
            print(f"{result.killed_at:42} {result.kills:3d} kills {result.cpu_s:5.1f} s of CPU  {verdict}", flush=True)
    launcher.close()
    bad = [result for result in done if result.traces]
    kills = sum(result.kills for result in done)
    cpu_s = sum(result.cpu_s for result in done)
    print(f"\n{kills} kills in {len(done)} runs, {cpu_s:.0f} s of CPU; {len(bad)} runs show a trace of them")
    write_json_atomic(arguments.out, {"cpus": os.cpu_count(), "runs": [asdict(result) for result in done]})
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
