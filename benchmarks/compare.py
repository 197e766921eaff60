"""The core six methods from one shared round, over five seeds, with the noise floor of one method run twice.

    python benchmarks/compare.py

For each seed a run plays rounds 0 and 1 with SPPO and generates and judges round 2. Five methods are forked from that
round (no new generation or judging), so they differ in nothing but how they learn from it; SPO, which needs a fresh
batch for each step, goes on from the same policy with the same number of oracle queries. "SPPO again" is SPPO with its
data in another order, measured with other responses: what differs between the two is noise. Each method has the best of
four learning rates on a seed that is not counted. All policies meet on held-out prompts, judged by the same oracle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = "configs/compare.yaml"
SHARED = 2
TUNING_SEED = 100
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
QUERIES_A_PROMPT = 10
BATCH, PROMPTS = 8, 80
TRAIN_METRICS = ("train/winner_log_ratio", "train/loser_log_ratio")

BEST_WORST = {"pairing": {"class_path": "BestWorst"}}
EXPECTED = {"pairing": {"class_path": "ExpectedVerdicts"}}


def objective(name: str, **arguments: Any) -> dict[str, Any]:
    return {"objective": {"class_path": name, "init_args": arguments}}


METHODS: dict[str, dict[str, Any]] = {
    "SPPO": {"model": objective("SPPO", eta=20.0)},
    "iterative DPO": {"model": objective("DPO", beta=0.1, reference="previous"), "data": BEST_WORST},
    "IPO": {"model": objective("IPO", tau=0.1), "data": BEST_WORST},
    "INPO": {"model": objective("INPO", eta=20.0, tau=0.005), "data": EXPECTED},
    "TD-MNPO": {
        "model": objective("TDMNPO", eta=20.0, anchor_weight=0.1, history_weights=[1.0, 1.0]),
        "data": EXPECTED,
    },
    "SPO": {
        "model": {
            **objective("SPO", baseline="leave_one_out"),
            "schedule": {"class_path": "SingleStep"},
            "reset_optimizer": "never",
        },
        "data": {
            "num_rounds": PROMPTS // BATCH,
            "export_every": PROMPTS // BATCH,
            "epochs_per_round": 1,
            "prompts_per_round": BATCH,
        },
    },
}
AGAIN = "SPPO again"
PAPER = ("SPPO", "iterative DPO", "IPO")


# --- one seed, in a process of its own -------------------------------------------------------------------------------


def fit(folder: Path, changes: dict[str, Any], seed: int, log: Path) -> float:
    """One run of the command; returns its CPU seconds."""
    import yaml

    from sppo_lightning.__main__ import main as sppo_lightning

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "changes.yaml").write_text(yaml.safe_dump(changes))
    began = time.process_time()
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            code = sppo_lightning(
                [
                    *("fit", "--config", CONFIG, "--config", str(folder / "changes.yaml")),
                    *("--seed_everything", str(seed), "--trainer.default_root_dir", str(folder)),
                ]
            )
        except SystemExit as finished:  # an earlier start of this benchmark has done it
            code = finished.code
    if code:
        raise SystemExit(f"{folder} failed; see {log}")
    return time.process_time() - began


def play_base(base: Path, seed: int) -> None:
    """Rounds 0 and 1, and round 2 up to where training would begin."""
    fit(base, {}, seed, _log(base))
    fit(base, {"data": {"num_rounds": SHARED + 1, "stop_after": "play"}}, seed, _log(base))


def train(method: str, rate: float, base: Path, folder: Path, seed: int) -> dict[str, Any]:
    """One method from the shared round; what it cost and how its log-ratios moved."""
    given = METHODS["SPPO" if method == AGAIN else method]
    model = {**given["model"], "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": rate}}}
    data = {"held_out": 24, **given.get("data", {})}
    if method == "SPO":
        model["policy"] = str(base / "exports" / f"round_{SHARED - 1:03d}")
    else:
        data |= {"fork_from": f"{base}@round_{SHARED:03d}", "num_rounds": SHARED + 1}
    if method == AGAIN:  # another order of the same data; nothing is held out of it, because it measures nothing itself
        seed, data["held_out"] = seed + 1000, 0
    cpu_s = fit(folder, {"model": model, "data": data}, seed, _log(folder))
    (path,) = folder.glob("eval/round_*/round.json")
    measured = json.loads(path.read_text())
    if method == "SPO":  # its seconds are those of its last step; every step is a round of its own
        measured |= {key: value * PROMPTS / BATCH for key, value in measured.items() if key.startswith("time/")}
    return {"cpu_s": cpu_s, "measured": measured, "log_ratios": _log_ratios(folder), "policy": _newest(folder)}


def _newest(folder: Path) -> str:
    return str(max(folder.glob("exports/round_*")))


def _log_ratios(folder: Path) -> dict[str, list[float]]:
    """The winners' and losers' mean log-ratios at each step, from MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run_id = json.loads((folder / "run.json").read_text())["mlflow_run_id"]
    curves = {name: client.get_metric_history(run_id, name) for name in TRAIN_METRICS}
    return {name: [point.value for point in sorted(curve, key=lambda p: p.step)] for name, curve in curves.items()}


def win_rates(seed: int, base: Path, policies: dict[str, str], num_samples: int = 16) -> dict[str, list[float]]:
    """Each policy's held-out win rate with its interval against the start and against the shared policy."""
    import torch

    from sppo_lightning.engines import Transformers
    from sppo_lightning.evaluation.contestants import read_contestant
    from sppo_lightning.evaluation.head_to_head import head_to_head
    from sppo_lightning.evaluation.responses import ResponseBank
    from sppo_lightning.evaluation.verdicts import VerdictBank
    from sppo_lightning.oracles import StyleGame
    from sppo_lightning.training.policy import StoredPolicy, load_tokenizer
    from sppo_lightning.training.progress import NullProgress
    from sppo_lightning.training.prompt_split import PromptSplit

    start = "package:quickstart/policy"
    tokenizer = load_tokenizer(start)
    split = PromptSplit.read(
        "package:quickstart/prompts.jsonl", tokenizer, seed=seed, num_held_out=24, max_prompt_tokens=1900
    )
    bank = ResponseBank(
        base.parent / "eval",
        prompts=split.held_out,
        engine=Transformers(max_new_tokens=48),
        open_policy=lambda member: StoredPolicy(
            member.name, member.source, tokenizer, torch.float32, torch.device("cpu")
        ),
        seed=seed,
        progress=NullProgress(),
    )
    shared = str(base / "exports" / f"round_{SHARED - 1:03d}")
    players = [read_contestant(source) for source in (start, shared, *policies.values())]
    match = head_to_head(players, VerdictBank(bank, StyleGame()), num_samples)
    return {
        name: [
            *(float(match.win_rates_NN[row, 0]), *match.intervals_NN2[row, 0].tolist()),
            *(float(match.win_rates_NN[row, 1]), *match.intervals_NN2[row, 1].tolist()),
        ]
        for row, name in enumerate(["start", "shared policy", *policies])
    }


def play_seed(out: Path, seed: int, rates: dict[str, list[float]]) -> dict[str, Any]:
    """All methods, each with all its learning rates, from one shared round."""
    import torch

    torch.set_num_threads(1)
    folder = out / f"seed_{seed}"
    result = folder / "result.json"
    if not result.is_file():
        play_base(folder / "base", seed)
        runs = {
            f"{method} {rate:g}": train(method, rate, folder / "base", folder / _slug(f"{method} {rate:g}"), seed)
            for method, several in rates.items()
            for rate in several
        }
        measured = win_rates(seed, folder / "base", {name: run["policy"] for name, run in runs.items()})
        base = json.loads((folder / "base/rounds/round_002/manifest.json").read_text())["metrics"]
        result.write_text(json.dumps({"seed": seed, "runs": runs, "win_rates": measured, "shared_round": base}))
    return json.loads(result.read_text())


def _log(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.log"


def _slug(text: str) -> str:
    return text.replace(" ", "_").lower()


# --- the table and the picture ---------------------------------------------------------------------------------------


def main() -> None:
    """Tunes, compares, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one thread each")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # One experiment for all runs; before the processes import torch and MLflow.
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{(args.out / 'mlflow.db').resolve()}",
        "MLFLOW_EXPERIMENT_NAME": "comparison",
    }
    pool = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))
    with pool(1) as one:
        tuning = one.submit(play_seed, args.out, TUNING_SEED, {method: list(RATES) for method in METHODS}).result()
    best = {method: max(RATES, key=lambda rate: tuning["win_rates"][f"{method} {rate:g}"][0]) for method in METHODS}
    best[AGAIN] = best["SPPO"]
    print("learning rates: " + ", ".join(f"{method} {rate:g}" for method, rate in best.items()), flush=True)
    with pool(args.jobs) as several:
        chosen = {method: [rate] for method, rate in best.items()}
        seeds = list(several.map(partial(play_seed, args.out, rates=chosen), args.seeds))
    table = {method: _figures(f"{method} {rate:g}", seeds) for method, rate in best.items()}
    report = {
        "machine": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
        "learning_rates": best,
        "methods": table,
        "tuning": tuning["win_rates"],
        "seeds": seeds,
    }
    (args.out / "results.json").write_text(json.dumps(report, indent=2))
    print_table(table, seeds)
    draw(table, seeds, best, args.out)


def _figures(name: str, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    runs = [seed["runs"][name] for seed in seeds]
    rates = np.array([seed["win_rates"][name] for seed in seeds])
    time_of = {
        key: [run["measured"][f"time/{key}"] for run in runs] for key in ("generate", "judge", "reference", "train")
    }
    return {
        "vs_start": rates[:, 0].tolist(),
        "vs_shared": rates[:, 3].tolist(),
        "vs_shared_intervals": rates[:, 4:].tolist(),
        "seconds": time_of,
        "overhead": [
            sum(time_of[key][i] for key in time_of) / (time_of["reference"][i] + time_of["train"][i])
            for i in range(len(runs))
        ],
        "queries": [run["measured"]["cost/oracle_queries"] for run in runs],
        "tokens": [run["measured"]["cost/generated_tokens"] for run in runs],
        "cpu_s": [run["cpu_s"] for run in runs],
    }


def print_table(table: dict[str, Any], seeds: list[dict[str, Any]]) -> None:
    """Mean over the seeds and the standard error of that mean."""

    def mean(values: list[float]) -> str:
        return f"{np.mean(values):.3f} +- {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"

    floor = np.abs(np.subtract(table["SPPO"]["vs_shared"], table[AGAIN]["vs_shared"]))
    print(f"\nnoise floor: SPPO and {AGAIN} differ by {floor.mean():.3f} (at most {floor.max():.3f}) in win rate")
    shared = [seed["win_rates"]["shared policy"][0] for seed in seeds]
    print(f"the shared policy wins {mean(shared)} against the start")
    print(
        "method | vs start | vs shared policy | better than SPPO | queries | tokens | train s | "
        "all / (train + reference)"
    )
    for method, row in table.items():
        paired = np.subtract(row["vs_shared"], table["SPPO"]["vs_shared"])
        print(
            f"{method} | {mean(row['vs_start'])} | {mean(row['vs_shared'])} | {mean(paired.tolist())} | "
            f"{np.mean(row['queries']):.0f} | {np.mean(row['tokens']):.0f} | {np.mean(row['seconds']['train']):.1f} | "
            f"{np.mean(row['overhead']):.2f}"
        )


def draw(table: dict[str, Any], seeds: list[dict[str, Any]], best: dict[str, float], out: Path) -> None:
    """Win rates by method with the noise floor; winners' and losers' log-ratios during training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (axis, by_cost) = plt.subplots(1, 2, figsize=(10.4, 3.6), width_ratios=(1.5, 1), sharey=True)
    floor = np.abs(np.subtract(table["SPPO"]["vs_shared"], table[AGAIN]["vs_shared"])).max()
    centre = np.mean(table["SPPO"]["vs_shared"])
    for panel in (axis, by_cost):
        panel.axhspan(centre - floor, centre + floor, color="0.9", label="noise floor: SPPO run twice")
        panel.spines[["top", "right"]].set_visible(False)
    for place, (method, row) in enumerate(table.items()):
        error = 1.96 * np.std(row["vs_shared"], ddof=1) / len(seeds) ** 0.5
        axis.plot([place] * len(seeds), row["vs_shared"], "o", color=f"C{place}", alpha=0.5, ms=5, mew=0)
        axis.errorbar(place, np.mean(row["vs_shared"]), error, fmt="_", color="k", ms=16, capsize=4)
        spent = np.mean(np.add(row["seconds"]["train"], row["seconds"]["reference"]))
        by_cost.errorbar(
            spent, np.mean(row["vs_shared"]), error, fmt="o", color=f"C{place}", ms=5, capsize=3, label=method
        )
    axis.set_xticks(range(len(table)), list(table), rotation=20)
    axis.set_ylabel("held-out win rate vs shared policy")
    by_cost.set_xlabel("own seconds: training and reference pass")
    by_cost.set_xlim(left=0)
    by_cost.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(out / "comparison.png", dpi=160)

    figure, axes = plt.subplots(1, len(PAPER), figsize=(3.4 * len(PAPER), 3.0), squeeze=False)
    for axis, method in zip(axes[0], PAPER, strict=True):
        for name, colour, label in zip(TRAIN_METRICS, ("#1b7f4d", "#c0392b"), ("winners", "losers"), strict=True):
            curves = np.array([seed["runs"][f"{method} {best[method]:g}"]["log_ratios"][name] for seed in seeds])
            axis.fill_between(range(curves.shape[1]), curves.min(0), curves.max(0), color=colour, alpha=0.18, lw=0)
            axis.plot(curves.mean(0), color=colour, lw=2, label=label)
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set_title(method, fontsize=11)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(r"$\log\,\pi/\pi_t$ (IPO: $\pi_\mathrm{ref}$), nats")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out / "log_ratios.png", dpi=160)
    print(f"{out / 'results.json'}, {out / 'comparison.png'}, {out / 'log_ratios.png'}")


if __name__ == "__main__":
    main()
