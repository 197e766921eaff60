"""SPO against iterative reward modelling on control tasks: the whole experiment, resumable cell by cell.

    python benchmarks/control.py --out runs/control                      everything: 1.5 to 3 hours on two cores
    python benchmarks/control.py --out runs/tried --rounds 6 --seeds 2 --settings reacher_max reacher_intransitive

A cell is one `fit` (setting, method, seed) and the evaluation of its policy; its file in OUT/cells/ is written last, so
the same command goes on after a kill, within a cell too. Prints docs/control.md's table and writes OUT/results.json and
OUT/control.png.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CONFIGS = Path(__file__).parents[1] / "configs" / "control"
METHODS = {"SPO": "QueueWinRate", "reward model": "LearnedReward", "true reward": "TrueReward"}
MAXIMUM = ("pendulum_max", "reacher_max", "inverted_pendulum_max")
NOISY = "reacher_noisy"
BEYOND = ("reacher_non_markovian", "reacher_intransitive")
# What the learner reaches on the true reward does not depend on the preference.
SCALE = {**{setting: setting for setting in MAXIMUM}, NOISY: "reacher_max"}
NUM_EPISODES = 64


@dataclass(frozen=True)
class Cell:
    """One run."""

    setting: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.setting}-{METHODS[self.method]}-{self.seed}"


def cells(settings: Sequence[str], seeds: int) -> list[Cell]:
    """Seed by seed, so that a table of fewer seeds is there early."""
    scales = {SCALE[setting] for setting in settings if setting in SCALE}
    return [
        cell
        for seed in range(seeds)
        for cell in [
            *(Cell(setting, method, seed) for setting in settings for method in ("SPO", "reward model")),
            *(Cell(setting, "true reward", seed) for setting in sorted(scales)),
        ]
    ]


def run_cell(cell: Cell, out: Path, rounds: int) -> float:
    """Trains and measures one cell, unless that is done; returns its CPU seconds."""
    from sppo_lightning.__main__ import main
    from sppo_lightning.control.payoff import evaluation_episodes
    from sppo_lightning.control.policy import ControlPolicy

    file, run = out / "cells" / f"{cell.name}.json", out / "runs" / cell.name
    if file.is_file():
        return 0.0
    began = time.process_time()
    settings = {
        "seed_everything": cell.seed,
        "data.num_rounds": rounds,
        "data.export_every": max(rounds // 8, 1),
        "model.reward": METHODS[cell.method],
        "trainer.default_root_dir": run,
        "trainer.logger": "false",
    }
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    try:
        code = main(["fit", "--config", str(CONFIGS / f"{cell.setting}.yaml"), *words])
    except SystemExit as ending:  # trained before, but not measured
        code = int(ending.code or 0)
    if code:
        raise RuntimeError(f"{cell.name} ended with {code}; what it said stands above")
    last = sorted(run.glob("exports/round_*"))[-1]
    policy = ControlPolicy.load(last)
    # Start states of their own, the same for every cell of a setting: 1000 is no cell's seed.
    played = evaluation_episodes(run / "final.safetensors", policy.task, policy, cell.name, NUM_EPISODES, 1000)
    curve = [json.loads(path.read_text())["metrics"] for path in sorted(run.glob("eval/round_*/head_to_head.json"))]
    result = {
        "return": float(np.mean([each.true_return for each in played])),
        "curve": [
            {key: point[key] for key in ("round/env_steps_so_far", "round/comparisons_so_far", "eval/true_return")}
            for point in curve
        ],
        "gap": curve[-1]["gap/checkpoints"],
        "mixture_gap": curve[-1]["gap/checkpoints_mixture"],
        "cpu_s": time.process_time() - began,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".tmp").write_text(json.dumps(result))
    file.with_suffix(".tmp").replace(file)
    return float(result["cpu_s"])


def run_all(todo: Sequence[Cell], out: Path, rounds: int, workers: int) -> None:
    """Runs the cells in processes, saying after each when the rest will be done."""
    began, used = time.monotonic(), 0.0
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        pending = {pool.submit(run_cell, cell, out, rounds): cell for cell in todo}
        for done, future in enumerate(as_completed(pending), start=1):
            used += future.result()
            left_min = (time.monotonic() - began) / done * (len(todo) - done) / 60
            print(
                f"[{done}/{len(todo)}] {pending[future].name}: {used / 60:.1f} CPU-min so far, {left_min:.0f} min left",
                flush=True,
            )


def _end_with_parent() -> None:
    """A worker that outlived a killed command would hold its run folder; its run goes on from any kill."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# --- the table -------------------------------------------------------------------------------------------------------


def preference_of(setting: str) -> Any:
    """A setting's judge, as its configuration names it."""
    from sppo_lightning.control import preferences

    spec = yaml.safe_load((CONFIGS / f"{setting}.yaml").read_text())["data"]["init_args"]["preference"]
    return getattr(preferences, spec["class_path"])(**spec.get("init_args", {}))


def episodes(out: Path, cell: Cell) -> list[Any]:
    from sppo_lightning.control.rounds import read_episodes

    return read_episodes(out / "runs" / cell.name / "final.safetensors", cell.name)


def random_return(setting: str) -> float:
    """What evenly spread actions get."""
    from sppo_lightning.control.episodes import play_episodes, uniform_actor
    from sppo_lightning.control.task import Task

    data = yaml.safe_load((CONFIGS / f"{setting}.yaml").read_text())["data"]["init_args"]
    played = play_episodes(
        Task(data["task"], data["horizon"]),
        uniform_actor,
        [f"random/{n}" for n in range(NUM_EPISODES)],
        range(NUM_EPISODES),
    )
    return float(np.mean([each.true_return for each in played]))


def duel(out: Path, setting: str, seeds: int) -> Any:
    """SPO's last policies against the baseline's, each with each; an SPO seed is one observation."""
    from sppo_lightning.control.payoff import judge_policies
    from sppo_lightning.functional.intervals import win_rate_interval

    judge = preference_of(setting)
    theirs = [episodes(out, Cell(setting, "reward model", seed)) for seed in range(seeds)]
    rates = [
        [
            judge_policies({"ours": episodes(out, Cell(setting, "SPO", seed)), "theirs": each}, judge)[:, 0, 1].mean()
            for each in theirs
        ]
        for seed in range(seeds)
    ]
    return win_rate_interval(rates)


def report(out: Path, settings: Sequence[str], seeds: int) -> dict[str, Any]:
    """The figures of the experiment; prints them as a table."""
    from sppo_lightning.functional.intervals import mean_interval

    def returns(setting: str, method: str) -> np.ndarray:
        read = (
            json.loads((out / "cells" / f"{Cell(setting, method, seed).name}.json").read_text())
            for seed in range(seeds)
        )
        return np.array([cell["return"] for cell in read])

    found: dict[str, Any] = {}
    print("\n| setting | random | true reward | SPO | reward model | SPO, share | reward model, share | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for setting in [setting for setting in settings if setting in SCALE]:
        floor, best = random_return(setting), returns(SCALE[setting], "true reward").mean()
        shares = {method: (returns(setting, method) - floor) / (best - floor) for method in ("SPO", "reward model")}
        difference = mean_interval(shares["SPO"] - shares["reward model"])
        found[setting] = {
            "random": floor,
            "true_reward": best,
            **{
                method: {"return": returns(setting, method).tolist(), "share": shares[method].tolist()}
                for method in shares
            },
            "difference": [difference.estimate, difference.low, difference.high],
        }
        print(
            f"| {setting} | {floor:.1f} | {best:.1f} | {returns(setting, 'SPO').mean():.1f} | "
            f"{returns(setting, 'reward model').mean():.1f} | {mean_interval(shares['SPO'])} | "
            f"{mean_interval(shares['reward model'])} | {difference} |"
        )
    print("\n| setting | P(SPO's policy beats the reward model's) |\n|---|---|")
    for setting in settings:
        won = duel(out, setting, seeds)
        found.setdefault(setting, {})["win_rate"] = [won.estimate, won.low, won.high]
        print(f"| {setting} | {won} |")
    print("\nShares of the range random to true reward; 95 % intervals over seeds: Student's, Wilson's for win rates.")
    return found


def draw(out: Path, settings: Sequence[str], seeds: int) -> None:
    """True return against comparisons, a panel a setting, a curve a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(settings), 3.2), layout="constrained")
    for axes, setting in zip(np.atleast_1d(figure.subplots(1, len(settings))), settings, strict=True):
        for method, colour in (("SPO", "#0078C8"), ("reward model", "#D55E00")):
            for seed in range(seeds):
                curve = json.loads((out / "cells" / f"{Cell(setting, method, seed).name}.json").read_text())["curve"]
                axes.plot(
                    [point["round/comparisons_so_far"] for point in curve],
                    [point["eval/true_return"] for point in curve],
                    color=colour,
                    linewidth=1,
                    label=None if seed else method,
                )
        axes.set(title=setting, xlabel="comparisons", ylabel="true return")
        axes.legend(fontsize=8)
    figure.savefig(out / "control.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where runs, cells and results go")
    parser.add_argument("--rounds", type=int, default=300, help="rounds of 1,600 steps in each run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", default=[*MAXIMUM, NOISY, *BEYOND], choices=[*MAXIMUM, NOISY, *BEYOND])
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_all(cells(arguments.settings, arguments.seeds), arguments.out, arguments.rounds, arguments.workers)
    found = report(arguments.out, arguments.settings, arguments.seeds)
    (arguments.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(arguments.out, arguments.settings, arguments.seeds)


if __name__ == "__main__":
    main()
