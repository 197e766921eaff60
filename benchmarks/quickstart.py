"""The quick start over five seeds, beside its controls: shuffled verdicts, and iterative DPO under the same budget.

    python benchmarks/quickstart.py

Same policy, prompts, rounds, responses a prompt, passes and judge in every row; only what is named differs. `shuffled`
permutes the verdicts of each prompt among its responses, so nothing can be learnt: its win rate must stay around one
half. DPO's best/worst margin has no finite optimum, so it is shown at the quick start's learning rate and at a milder
one that suits it better. Every figure is the held-out win rate against the start policy by the unshuffled judge, after
the last round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
from pathlib import Path

from sppo_lightning.__main__ import main as sppo_lightning

SPPO = ""
SHUFFLED = """
data: {oracle: {class_path: Shuffled, init_args: {oracle: {class_path: StyleGame}}}}
trainer: {callbacks: [{class_path: HeldOutEvaluation, init_args: {oracle: {class_path: StyleGame}}}]}
"""
DPO = """
model: {objective: {class_path: DPO}}
data: {pairing: {class_path: BestWorst}}
"""
DPO_MILD = """
model:
  objective: {class_path: DPO}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 5.0e-5, weight_decay: 0.01}}
data: {pairing: {class_path: BestWorst}}
"""
ARMS = {
    "SPPO": SPPO,
    "SPPO, shuffled verdicts": SHUFFLED,
    "iterative DPO": DPO,
    "iterative DPO, lr 5e-5": DPO_MILD,
}


def run(folder: Path, seed: int, changes: str) -> dict[str, float]:
    """One run; its last held-out win rate and what it cost."""
    folder.mkdir(parents=True)
    (folder / "changes.yaml").write_text(changes)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    arguments = ["fit", "--config", "configs/quickstart.yaml"]
    if changes:
        arguments += ["--config", str(folder / "changes.yaml")]
    arguments += ["--seed_everything", str(seed), "--trainer.default_root_dir", str(folder / "run")]
    code = sppo_lightning([*arguments, "--trainer.logger", "false"])
    if code != 0:
        raise SystemExit(code)
    metrics = json.loads(sorted(folder.glob("run/eval/round_*/metrics.json"))[-1].read_text())
    return {
        "win_rate": metrics["round/win_rate_vs_start"],
        "low": metrics["round/win_rate_vs_start_low"],
        "high": metrics["round/win_rate_vs_start_high"],
        "cpu_s": time.process_time() - cpu_s,
        "wall_s": time.perf_counter() - wall_s,
    }


def main() -> None:
    """Runs every arm on every seed and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / time.strftime("quickstart_benchmark_%Y%m%d_%H%M%S"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in args.arms}
    for number, arm in enumerate(args.arms):
        for seed in args.seeds:
            with (
                (args.out / "log.txt").open("a") as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                results[arm].append(run(args.out / f"arm_{number}_seed_{seed}", seed, ARMS[arm]))
            print(f"{arm}, seed {seed}: {results[arm][-1]['win_rate']:.3f}", flush=True)
    print(f"\n{'held-out win rate vs start':<26}{'mean':>7}{'min':>7}{'max':>7}{'CPU-s a run':>13}")
    for arm, rows in results.items():
        rates = [row["win_rate"] for row in rows]
        cpu_s = statistics.mean(row["cpu_s"] for row in rows)
        print(f"{arm:<26}{statistics.mean(rates):7.3f}{min(rates):7.3f}{max(rates):7.3f}{cpu_s:13.1f}")
    report = {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d"), "results": results}
    (args.out / "results.json").write_text(json.dumps(report, indent=2))
    print(f"written to {args.out / 'results.json'}")


if __name__ == "__main__":
    main()
