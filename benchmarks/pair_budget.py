"""How little of the judging the quick start needs: shares of the pairs, over five seeds, also with a noisy judge.

    python benchmarks/pair_budget.py

Every row is the quick start with `data.judging.pair_share`; its figure is the held-out win rate against the start
policy by the judge without noise, after the last round, and how far that lies from the run that judges every pair with
the same seed. `Noisy` turns one verdict in ten round. Writes the figures and the trade-off curve,
docs/images/pair_budget.png. `--workers 2` plays two runs at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

NOISY = """
data: {oracle: {class_path: Noisy, init_args: {oracle: {class_path: StyleGame}, flip: 0.1}}}
trainer: {callbacks: [{class_path: HeldOutEvaluation, init_args: {oracle: {class_path: StyleGame}}}]}
"""
JUDGES = {"StyleGame": "", "Noisy": NOISY}
FULL, BAR = 1.0, 0.35
SHARES = {"StyleGame": (0.2, BAR, 0.5, 0.7, FULL), "Noisy": (BAR, FULL)}


def run(out: Path, judge: str, share: float, seed: int) -> dict[str, float | str]:
    """One run, unless an earlier start of this benchmark has done it."""
    from sppo_lightning.__main__ import main as sppo_lightning

    folder = out / f"{judge}_{share}_seed_{seed}"
    if not (folder / "row.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "judge.yaml").write_text(JUDGES[judge] or "{}")
        began_s = time.process_time()
        arguments = ["fit", "--config", "configs/quickstart.yaml", "--config", str(folder / "judge.yaml")]
        arguments += ["--seed_everything", str(seed), "--trainer.default_root_dir", str(folder / "run")]
        arguments += ["--trainer.logger", "false", "--data.judging.pair_share", str(share)]
        with (folder / "log.txt").open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = sppo_lightning(arguments)
        if code != 0:
            raise SystemExit(f"{folder}/log.txt: the run ended with code {code}")
        metrics = json.loads(max(folder.glob("run/eval/round_*/metrics.json")).read_text())
        rounds = [json.loads(path.read_text()) for path in folder.glob("run/rounds/*/manifest.json")]
        row = {
            "judge": judge,
            "share": share,
            "seed": seed,
            "win_rate": metrics["round/win_rate_vs_start"],
            "pairs": sum(manifest["metrics"]["cost/oracle_queries"] for manifest in rounds),
            "cpu_s": time.process_time() - began_s,
        }
        (folder / "row.json").write_text(json.dumps(row))
    return json.loads((folder / "row.json").read_text())


def summary(rows: list[dict]) -> list[dict]:
    """A line for each judge and share: means over the seeds, beside the full run of the same seed."""
    full = {(row["judge"], row["seed"]): row for row in rows if row["share"] == FULL}
    lines = []
    for judge, shares in SHARES.items():
        for share in shares:
            chosen = [row for row in rows if (row["judge"], row["share"]) == (judge, share)]
            if not chosen:
                continue
            differences = [row["win_rate"] - full[judge, row["seed"]]["win_rate"] for row in chosen]
            lines.append(
                {
                    "judge": judge,
                    "share": share,
                    "judged": sum(r["pairs"] for r in chosen) / sum(full[judge, r["seed"]]["pairs"] for r in chosen),
                    "win_rate": statistics.mean(row["win_rate"] for row in chosen),
                    "difference": statistics.mean(differences),
                    "standard_error": statistics.stdev(differences) / len(differences) ** 0.5 if differences[1:] else 0,
                    "seeds": len(chosen),
                }
            )
    return lines


def draw(lines: list[dict], path: Path) -> None:
    """The trade-off curve: what judging a part of the pairs costs in win rate."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    axes.axhspan(-0.02, 0.02, color="0.92")
    axes.text(0.02, 0.0185, "within .02 of judging every pair", va="top", color="0.35")
    for judge, marker, shift in (("StyleGame", "o-", 0.0), ("Noisy", "s-", 0.008)):
        chosen = [line for line in lines if line["judge"] == judge]
        axes.errorbar(
            [line["judged"] + shift for line in chosen],
            [line["difference"] for line in chosen],
            yerr=[line["standard_error"] for line in chosen],
            fmt=marker,
            capsize=3,
            label={"StyleGame": "quick start", "Noisy": "one verdict in ten turned round"}[judge],
        )
    axes.set_xlabel("share of the pairs that are judged")
    axes.set_ylabel("win rate against the start,\ndifference from judging all")
    axes.set_xlim(0, 1.05)
    axes.set_ylim(-0.04, 0.04)
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Runs everything that is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pair_budget"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/pair_budget.png"))
    args = parser.parse_args()
    jobs = [(judge, share, seed) for seed in args.seeds for judge, shares in SHARES.items() for share in shares]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        rows = [future.result() for future in [pool.submit(run, args.out, *job) for job in jobs]]
    lines = summary(rows)
    print(f"{'judge':<12}{'share':>7}{'judged':>8}{'win rate':>10}{'difference':>12}{'std. error':>12}{'seeds':>7}")
    for line in lines:
        print(
            f"{line['judge']:<12}{line['share']:7.2f}{line['judged']:8.3f}{line['win_rate']:10.4f}"
            f"{line['difference']:+12.4f}{line['standard_error']:12.4f}{line['seeds']:7d}"
        )
    report = {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d"), "summary": lines, "rows": rows}
    (args.out / "results.json").write_text(json.dumps(report, indent=2))
    draw(lines, args.plot)
    print(f"written to {args.out / 'results.json'} and {args.plot}")


if __name__ == "__main__":
    main()
