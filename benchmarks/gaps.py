"""The gaps beside the truth: quick-start policies, whose exploitability the style game gives in closed form.

    python benchmarks/gaps.py

Trains short runs as the quick start does, without its quality term and with it, by two seeds each, then measures the
last policy and the uniform mixture of each with ten evaluation seeds: fresh responses of policies and repliers every
time, 20 measurements of each kind. The truth is
`StyleGame.exploitability` of the exact style mix (one forward pass, no sampling) and of the mean quality of many
responses that no measurement uses. Also times a payoff matrix over 6 policies and 64 prompts, and shows the win rate
of the best of n replies for growing n. Bars: gap/best_of_n (64) at least .75 of the true gap of the last policy, its
interval above the truth in at most a tenth of the measurements, best of n monotone, the matrix in under 60 s.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import platform
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sppo_lightning.__main__ import main as sppo_lightning
from sppo_lightning.engines import Transformers
from sppo_lightning.evaluation.best_of_n import best_of_n, candidate_samples, opponent_samples
from sppo_lightning.evaluation.contestants import Contestant, mixture_contestant, read_contestant
from sppo_lightning.evaluation.gaps import best_of_n_gap, checkpoint_gap
from sppo_lightning.evaluation.head_to_head import head_to_head
from sppo_lightning.evaluation.mixture import Mixture
from sppo_lightning.evaluation.responses import ResponseBank
from sppo_lightning.evaluation.verdicts import VerdictBank
from sppo_lightning.oracles import StyleGame
from sppo_lightning.quickstart.style_mix import exact_style_mix
from sppo_lightning.training.policy import StoredPolicy, load_tokenizer
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.training.prompt_split import PromptSplit

START = "package:quickstart/policy"
PROMPTS = "package:quickstart/prompts.jsonl"
N = 64
NUM_SAMPLES = 32
NUM_TRUTH_SAMPLES = 64
TRUTH_SEED = 10**6


class Policies:
    """The stored policies of all runs, each loaded once: they are small."""

    def __init__(self) -> None:
        self.tokenizer = load_tokenizer(START)
        self._loaded: dict[str, StoredPolicy] = {}

    def __call__(self, member: Any) -> StoredPolicy:
        if member.source not in self._loaded:
            self._loaded[member.source] = StoredPolicy(
                member.name, member.source, self.tokenizer, torch.float32, torch.device("cpu")
            )
        return self._loaded[member.source]


def train(folder: Path, seed: int, quality_weight: float, rounds: int) -> None:
    """One run like the quick start, without its evaluations; kept if it is there, like all that is measured."""
    if len(list(folder.glob("exports/round_???"))) == rounds:
        return
    arguments = ["fit", "--config", "configs/quickstart.yaml", "--trainer.default_root_dir", str(folder)]
    arguments += ["--seed_everything", str(seed), "--data.oracle.quality_weight", str(quality_weight)]
    arguments += ["--data.num_rounds", str(rounds), "--trainer.logger", "false", "--trainer.callbacks", "[]"]
    log = folder.parent / f"{folder.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        code = sppo_lightning(arguments)
    if code != 0:
        raise SystemExit(f"training failed, see {log}")


def bank(folder: Path, seed: int, split: PromptSplit, policies: Policies) -> ResponseBank:
    engine = Transformers(max_new_tokens=48)
    return ResponseBank(
        folder, prompts=split.held_out, engine=engine, open_policy=policies, seed=seed, progress=NullProgress()
    )


def true_gap(contestant: Contestant, judge: StyleGame, truth: ResponseBank, policies: Policies) -> float:
    """Exact style mix, and the mean quality of responses that nothing else uses."""
    mix_BS, quality_B = torch.zeros(len(truth.prompts), 4), torch.zeros(len(truth.prompts))
    for member, weight in contestant.members:
        model = policies(member).model
        mix_BS = mix_BS + weight * exact_style_mix(model, policies.tokenizer, truth.prompts)
        if judge.quality_weight > 0:
            answers = truth.responses(Contestant.of(member), NUM_TRUTH_SAMPLES)
            quality_B = quality_B + weight * StyleGame.mean_quality(answers)
    return judge.exploitability(mix_BS, quality_B)


def measure(run: Path, out: Path, args: SimpleNamespace, quality_weight: float, policies: Policies) -> list[dict]:
    """Both gaps of the last policy and of the uniform mixture of a run, once for each evaluation seed."""
    split = PromptSplit.read(PROMPTS, policies.tokenizer, seed=args.train_seed, num_held_out=24, max_prompt_tokens=1900)
    judge = StyleGame(quality_weight=quality_weight)
    exports = sorted(path.name for path in (run / "exports").glob("round_???"))
    contestants = [read_contestant(name, run, START) for name in ("start", *exports)]
    mixture = mixture_contestant(Mixture.uniform(c.members[0][0].source for c in contestants), run, START)
    truth = {
        contestant.name: true_gap(contestant, judge, bank(out, TRUTH_SEED, split, policies), policies)
        for contestant in (contestants[-1], mixture)
    }
    start, last = contestants[0].members[0][0], contestants[-1].members[0][0]
    found = []
    for seed in range(args.evaluation_seeds):
        verdicts = VerdictBank(bank(out, seed, split, policies), judge)
        for contestant in (contestants[-1], mixture):
            samples = NUM_SAMPLES if len(contestant.members) == 1 else 4
            candidates = candidate_samples([start, last], N, first=NUM_SAMPLES)
            against = opponent_samples(verdicts, candidates, contestant, samples)
            gap = best_of_n_gap(against, "start and last").interval
            found.append(
                {
                    "quality_weight": quality_weight,
                    "train_seed": args.train_seed,
                    "seed": seed,
                    "policy": "last" if len(contestant.members) == 1 else "mixture",
                    "true": truth[contestant.name],
                    "best_of_n": gap.estimate,
                    "low": gap.low,
                    "high": gap.high,
                    "curve": [best.win_rate.estimate for best in best_of_n(against)],
                }
            )
        if seed == 0:
            match = head_to_head(contestants, verdicts, 4)
            checkpoints = checkpoint_gap(match.win_rates_BNN[:, :, -1], match.names).interval.estimate
            found[0]["checkpoints"] = checkpoints
    return found


def time_payoff(run: Path, out: Path, policies: Policies) -> float:
    """Wall seconds of a payoff matrix over 6 policies and 64 prompts, nothing stored yet."""
    split = PromptSplit.read(PROMPTS, policies.tokenizer, seed=0, num_held_out=64, max_prompt_tokens=1900)
    names = ("start", *sorted(path.name for path in (run / "exports").glob("round_???")))[:6]
    began = time.perf_counter()
    verdicts = VerdictBank(bank(out, 0, split, policies), StyleGame())
    match = head_to_head([read_contestant(name, run, START) for name in names], verdicts, 8)
    assert len(match.names) == 6
    assert match.num_prompts == 64
    return time.perf_counter() - began


def report(found: list[dict]) -> None:
    heads = ("quality", "policy", "true", "best of 64", "share", "least", "above", "ckpts")
    print("\n" + " ".join(f"{head:>{width}}" for head, width in zip(heads, (8, 8, 7, 11, 7, 7, 6, 6), strict=True)))
    key = lambda row: (row["quality_weight"], row["policy"], row["train_seed"])  # noqa: E731
    for (weight, policy, train_seed), rows in itertools.groupby(sorted(found, key=key), key):
        group = list(rows)
        shares = [row["best_of_n"] / row["true"] for row in group]
        above = sum(row["low"] > row["true"] for row in group)
        checkpoints = next((f"{row['checkpoints']:.3f}" for row in group if "checkpoints" in row), "")
        print(
            f"{weight:8.1f} {policy:>8} {group[0]['true']:7.3f} {np.mean([row['best_of_n'] for row in group]):11.3f} "
            f"{np.mean(shares):7.2f} {min(shares):7.2f} {above:3d}/{len(group)} {checkpoints:>6}   seed {train_seed}"
        )
    curves = np.array([row["curve"] for row in found if row["policy"] == "last"])
    falls = np.diff(curves, axis=1).min(axis=1)
    means = " ".join(f"{rate:.3f}" for rate in curves.mean(axis=0))
    print(f"best of 1, 2, 4, ..., {N} against the last policy, mean: {means}")
    print(f"largest fall between two n: {max(0.0, -falls.min()):.3f} of {len(curves)} curves")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / time.strftime("gaps_benchmark_%Y%m%d_%H%M%S"))
    parser.add_argument("--train_seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--evaluation_seeds", type=int, default=10)
    parser.add_argument("--quality_weights", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policies, found = Policies(), []
    for weight, train_seed in itertools.product(args.quality_weights, args.train_seeds):
        run = args.out / f"quality_{weight:g}_seed_{train_seed}"
        train(run, train_seed, weight, args.rounds)
        asked = SimpleNamespace(train_seed=train_seed, evaluation_seeds=args.evaluation_seeds)
        found += measure(run, run / "benchmark", asked, weight, policies)
        print(f"quality weight {weight:g}, training seed {train_seed}: measured", flush=True)
    report(found)
    seconds = time_payoff(run, args.out / "payoff", policies)
    print(f"payoff matrix, 6 policies, 64 prompts, 8 responses each: {seconds:.1f} s")
    result = {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d"), "gaps": found, "payoff_s": seconds}
    (args.out / "results.json").write_text(json.dumps(result, indent=2))
    print(f"written to {args.out / 'results.json'}")


if __name__ == "__main__":
    main()
