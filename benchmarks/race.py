"""The style race: several methods play the same cyclic game through the same language model, over five seeds.

    python benchmarks/race.py                                  # SPPO and iterative DPO, the picture in README
    python benchmarks/race.py --arms INPO EGPO --out runs/regularised

The judge of `configs/race.yaml` looks at the opening words alone, and its three styles beat each other in a circle, so
the only unbeatable policy is a known mixture. Each policy's exact probability of each style is one forward pass, so the
true gap (2 (best reply's win rate - 1/2), a mean over prompts) has no sampling error. "Mixture" draws one of the rounds
so far, the start policy included, for every response.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CONFIG = Path("configs/race.yaml")
EQUILIBRIUM = np.array([2 / 9, 3 / 9, 4 / 9, 0.0])


@dataclass(frozen=True)
class Arm:
    """One method's changes to the config; `tau` is that of its regularised equilibrium, if it has one."""

    changes: dict[str, Any]
    tau: float | None = None


DPO = {"class_path": "DPO", "init_args": {"beta": 0.1, "reference": "previous"}}
ARMS = {
    "SPPO": Arm({}),
    # Best/worst pairs, two of five responses: eight passes make as many gradient steps as SPPO's three.
    "DPO": Arm(
        {
            "model": {"objective": DPO},
            "data": {"pairing": {"class_path": "BestWorst"}, "epochs_per_round": 8, "global_batch_prompts": 16},
        }
    ),
    "DPO, as many passes": Arm(
        {
            "model": {"objective": DPO},
            "data": {"pairing": {"class_path": "BestWorst"}, "global_batch_prompts": 16},
        }
    ),
    "INPO": Arm(
        {
            "model": {"objective": {"class_path": "INPO", "init_args": {"eta": 3.0, "tau": 0.06}}},
            "data": {"pairing": {"class_path": "ExpectedVerdicts"}, "num_rounds": 24},
        },
        tau=0.06,
    ),
    "EGPO": Arm(
        {
            "model": {
                "objective": {"class_path": "EGPO", "init_args": {"eta": 4.0, "tau": 0.03}},
                "schedule": {"class_path": "HalfStep"},
            },
            "data": {"opponent": {"class_path": "CurrentPolicy"}, "num_rounds": 12},
        },
        tau=0.03,
    ),
}


# --- one run, in a process of its own --------------------------------------------------------------------------------


def play(out: Path, arm: str, seed: int) -> dict[str, Any]:
    """Trains, then measures every export. Finished work is read back, so that the same command goes on."""
    folder = out / arm.replace(", ", "-").replace(" ", "-").lower() / f"seed_{seed}"
    result = folder / "mixes.npz"
    if not result.is_file():
        import torch

        from sppo_lightning.__main__ import main as sppo_lightning

        torch.set_num_threads(1)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "changes.yaml").write_text(yaml.safe_dump(ARMS[arm].changes))
        cpu_s = time.process_time()
        with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = sppo_lightning(
                [
                    *("fit", "--config", str(CONFIG), "--config", str(folder / "changes.yaml")),
                    *("--seed_everything", str(seed), "--trainer.default_root_dir", str(folder / "run")),
                    # What the callbacks would measure is known exactly here.
                    *("--trainer.logger", "false", "--trainer.callbacks", "[]"),
                ]
            )
        if code:
            raise SystemExit(f"{arm}, seed {seed} failed; see {folder / 'log.txt'}")
        rounds, mix_TBS = _exact_mixes(folder / "run")
        np.savez(result, rounds=rounds, mix=mix_TBS, cpu_s=time.process_time() - cpu_s)
    with np.load(result, allow_pickle=False) as stored:
        return {"arm": arm, "seed": seed, **{name: stored[name] for name in stored.files}}


def _exact_mixes(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """The rounds after which there is an export, the start (0) first, and [T, B, S] the exact style mixes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sppo_lightning.io.assets import resolve
    from sppo_lightning.io.prompts import read_prompts
    from sppo_lightning.quickstart.style_mix import exact_style_mix

    start = resolve("package:quickstart/policy")
    tokenizer = AutoTokenizer.from_pretrained(start)
    prompts = read_prompts("package:quickstart/prompts.jsonl")
    exports = sorted(run.glob("exports/round_*"))
    mixes = [
        exact_style_mix(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer, prompts).numpy()
        for folder in [start, *exports]
    ]
    return np.array([0, *(int(path.name[6:]) + 1 for path in exports)]), np.stack(mixes)


# --- what became of them ---------------------------------------------------------------------------------------------


def running_mixture(mix_TBS: np.ndarray) -> np.ndarray:
    """[T, B, S] the uniform mixture of all policies so far."""
    return mix_TBS.cumsum(0) / np.arange(1, len(mix_TBS) + 1)[:, None, None]


def gaps(mix_TBS: np.ndarray) -> np.ndarray:
    """[T] the true gap of each policy."""
    import torch

    from sppo_lightning.oracles import StyleGame

    game, no_quality = StyleGame(quality_weight=0.0), torch.zeros(mix_TBS.shape[1])
    return np.array([game.exploitability(torch.from_numpy(mix_BS), no_quality) for mix_BS in mix_TBS])


def total_variation(mix_TBS: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[T] mean over prompts of half the summed differences to [S] or [T, B, S]."""
    return np.abs(mix_TBS - other).sum(-1).mean(-1) / 2


def exact_multiplicative_weights(start_BS: np.ndarray, eta: float, num_rounds: int) -> np.ndarray:
    """[T, B, S] what SPPO's update makes of the start where nothing is sampled: p_{t+1} ~ p_t exp(eta P p_t)."""
    from sppo_lightning.oracles import StyleGame

    probs_SS = StyleGame(quality_weight=0.0).style_matrix().numpy()
    mixes = [start_BS / start_BS.sum(-1, keepdims=True)]
    for _ in range(num_rounds):
        weight_BS = mixes[-1] * np.exp(eta * mixes[-1] @ probs_SS.T)
        mixes.append(weight_BS / weight_BS.sum(-1, keepdims=True))
    return np.stack(mixes)


def regularised_equilibrium(start_S: np.ndarray, tau: float) -> np.ndarray:
    """[S] the equilibrium of the game with a KL of strength tau to the start policy."""
    from sppo_lightning.functional import regularised_games
    from sppo_lightning.oracles import StyleGame

    probs_SS = StyleGame(quality_weight=0.0).style_matrix().numpy()
    return np.exp(regularised_games.regularised_equilibrium(probs_SS, tau, start_S / start_S.sum()))


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One arm's figures, one entry a seed."""
    arm = ARMS[runs[0]["arm"]]
    last = [gaps(run["mix"]) for run in runs]
    mixture = [gaps(running_mixture(run["mix"])) for run in runs]
    summary = {
        "rounds": runs[0]["rounds"].tolist(),
        "gap_last": [curve.tolist() for curve in last],
        "gap_mixture": [curve.tolist() for curve in mixture],
        "best_single_round": [float(curve.min()) for curve in last],
        "tv_last": [float(total_variation(run["mix"], EQUILIBRIUM)[-1]) for run in runs],
        "tv_mixture": [float(total_variation(running_mixture(run["mix"]), EQUILIBRIUM)[-1]) for run in runs],
        "cpu_s": [float(run["cpu_s"]) for run in runs],
    }
    start_BS = runs[0]["mix"][0]
    if arm.tau is not None:
        equilibrium = regularised_equilibrium(start_BS.mean(0), arm.tau)
        summary["regularised_equilibrium"] = equilibrium.tolist()
        summary["tv_last_to_regularised"] = [float(total_variation(run["mix"], equilibrium)[-1]) for run in runs]
    if runs[0]["arm"] == "SPPO":
        eta = yaml.safe_load(CONFIG.read_text())["model"]["objective"]["init_args"]["eta"]
        exact = running_mixture(exact_multiplicative_weights(start_BS, eta, len(summary["rounds"]) - 1))
        summary["tv_mixture_to_exact"] = [total_variation(running_mixture(run["mix"]), exact).tolist() for run in runs]
        summary["gap_mixture_exact"] = gaps(exact).tolist()
    return summary


def main() -> None:
    """Plays, prints the table, draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/race"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=["SPPO", "DPO"], choices=list(ARMS), metavar="ARM")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one thread each")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # before the processes import torch
    began = time.perf_counter()
    jobs = [(arm, seed) for seed in args.seeds for arm in args.arms]
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in args.arms}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for run in pool.map(partial(play, args.out), *zip(*jobs, strict=True)):
            results[run["arm"]].append(run)
            last, mixture = gaps(run["mix"])[-1], gaps(running_mixture(run["mix"]))[-1]
            print(
                f"{run['arm']}, seed {run['seed']}: gap of the last {last:.3f}, of the mixture {mixture:.3f}",
                flush=True,
            )
    summaries = {arm: summarise(runs) for arm, runs in results.items()}
    report = {
        "machine": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
        "wall_s": time.perf_counter() - began,
        "seeds": args.seeds,
        "arms": summaries,
    }
    (args.out / "results.json").write_text(json.dumps(report, indent=2))
    print_table(summaries)
    broken = check_promises(summaries)
    draw(summaries, args.out / "race.png")
    print(f"{report['wall_s']:.0f} s; {args.out / 'results.json'}, {args.out / 'race.png'}")
    raise SystemExit(1 if broken else 0)


def check_promises(summaries: dict[str, Any]) -> int:
    """Prints what every seed must show, and returns how many promises are broken."""
    promises: list[tuple[str, list[bool]]] = []
    if "SPPO" in summaries:
        sppo = summaries["SPPO"]
        mixture = [curve[-1] for curve in sppo["gap_mixture"]]
        promises += [
            ("SPPO's mixture has a gap below .13", [gap < 0.13 for gap in mixture]),
            ("... and below its own best single round's", list(np.less(mixture, sppo["best_single_round"]))),
            ("... and is within .12 total variation of the equilibrium", [tv < 0.12 for tv in sppo["tv_mixture"]]),
            ("SPPO's last round is not", [tv > 0.12 for tv in sppo["tv_last"]]),
        ]
        if "DPO" in summaries:
            theirs = [curve[-1] for curve in summaries["DPO"]["gap_mixture"]]
            promises.append(("SPPO's mixture has a smaller gap than DPO's", list(np.less(mixture, theirs))))
    if "DPO" in summaries:
        promises.append(
            ("DPO's last round is not within .12 either", [tv > 0.12 for tv in summaries["DPO"]["tv_last"]])
        )
    for arm in ("INPO", "EGPO"):
        if arm in summaries:
            near = [tv < 0.12 for tv in summaries[arm]["tv_last"]]
            promises.append((f"{arm}'s last round is within .12 of the equilibrium", near))
    for text, seeds in promises:
        print(f"{'ok' if all(seeds) else 'BROKEN':<7}{text}: {sum(seeds)} of {len(seeds)} seeds")
    return sum(not all(seeds) for _, seeds in promises)


def print_table(summaries: dict[str, Any]) -> None:
    """Mean (lowest to highest) over the seeds."""

    def spread(values: list[float]) -> str:
        return f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"

    columns = {
        "gap, last": lambda s: [curve[-1] for curve in s["gap_last"]],
        "gap, mixture": lambda s: [curve[-1] for curve in s["gap_mixture"]],
        "gap, best round": lambda s: s["best_single_round"],
        "TV to equilibrium, last": lambda s: s["tv_last"],
        "mixture": lambda s: s["tv_mixture"],
        "TV to regularised, last": lambda s: s.get("tv_last_to_regularised"),
        "CPU-s": lambda s: s["cpu_s"],
    }
    print("\n" + " | ".join(["method", *columns]))
    for arm, summary in summaries.items():
        values = [column(summary) for column in columns.values()]
        print(" | ".join([arm, *("-" if value is None else spread(value) for value in values)]))
    if "SPPO" in summaries:
        exact = [curve[-1] for curve in summaries["SPPO"]["tv_mixture_to_exact"]]
        print(f"SPPO's mixture is {spread(exact)} in total variation from exact multiplicative weights")


def draw(summaries: dict[str, Any], path: Path) -> None:
    """The true gap against the round, a panel a method: mean over the seeds, and the band they span."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(summaries), figsize=(4.6 * len(summaries), 3.6), sharey=True, squeeze=False)
    for axis, (arm, summary) in zip(axes[0], summaries.items(), strict=True):
        for name, colour, label in (("gap_last", "#c0392b", "last round"), ("gap_mixture", "#1f5fa8", "mixture")):
            curves_NT = np.array(summary[name])
            axis.fill_between(summary["rounds"], curves_NT.min(0), curves_NT.max(0), color=colour, alpha=0.18, lw=0)
            axis.plot(summary["rounds"], curves_NT.mean(0), color=colour, lw=2, label=label)
        axis.set_title(arm, fontsize=11)
        axis.set_xlabel("rounds trained")
        axis.set_xlim(0, summary["rounds"][-1])
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    axes[0][0].set_ylabel("true exploitability gap")
    axes[0][0].set_ylim(0, 1)
    axes[0][-1].legend(frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
