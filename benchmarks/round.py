"""A whole round: stages side by side, one by one, and as the official scripts do it.

    python benchmarks/round.py                       # about five minutes on two quiet cores

The same round (the same prompts, policy, judge, K) three times, each in a process of its own, one thread a stage:

- `side by side`: `fit` as it is, on two cores;
- `one by one`: `fit` held on one core, where nothing overlaps: what each stage takes;
- `official`: `benchmarks/peer/official_round.py`.

The clock runs from before the first response to the last optimiser step. With the stages' times T of `one by one`, two
cores cannot do better than max(max T, sum T / 2). Training needs the whole round, so it overlaps with nothing: the same
is said of playing alone, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = ("generate", "judge", "reference", "train")


def play(assets: Path, root: Path, result: Path) -> None:
    """One round of `fit` in this process."""
    import torch
    from lightning.pytorch import Callback, Trainer, seed_everything

    from sppo_lightning.engines.transformers import Transformers
    from sppo_lightning.objectives import SPPO
    from sppo_lightning.oracles.pairrm import PairRM
    from sppo_lightning.training.checkpoint import AtomicCheckpointIO
    from sppo_lightning.training.data import SelfPlayDataModule
    from sppo_lightning.training.module import PolicyModule
    from sppo_lightning.training.progress import StageProgress
    from sppo_lightning.training.run_folder import RunFolder

    cpu_s = dict.fromkeys(STAGES, 0.0)

    def counted(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same, with its thread's CPU time counted: on a busy machine the clock says little."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            result = work(*args, **kwargs)
            cpu_s[stage] += time.thread_time() - start
            return result

        return wrapped

    class Clock(Callback):
        """Wall and CPU seconds at the round's beginning, when it is played, and when it is trained."""

        def __init__(self) -> None:
            self.marks: list[tuple[float, float]] = []

        def mark(self, *_: Any) -> None:
            self.marks.append((time.perf_counter(), time.process_time()))

        on_fit_start = on_train_epoch_start = on_train_epoch_end = mark

    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    settings = json.loads((assets / "settings.json").read_text())
    clock = Clock()
    RunFolder(root).lock()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=root,
        max_epochs=1,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[clock],
    )
    engine, oracle = Transformers(max_new_tokens=settings["max_new_tokens"]), PairRM(str(assets / "judge"))
    engine.generate = counted("generate", engine.generate)  # type: ignore[method-assign]
    oracle.logits = counted("judge", oracle.logits)  # type: ignore[method-assign]
    data = SelfPlayDataModule(
        prompts=str(assets / "prompts.jsonl"),
        engine=engine,
        oracle=oracle,
        num_rounds=1,
        num_candidates=settings["num_candidates"],
        global_batch_prompts=settings["global_batch_prompts"],
        chunk_prompts=settings["chunk_prompts"],
        held_out=0,
        truncated="keep",
        export_every=1,
    )
    data.progress = StageProgress()
    module = PolicyModule(
        str(assets / "policy"),
        objective=SPPO(eta=1e3),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-7),
    )
    trainer.fit(module, datamodule=data)
    metrics = data.module.run_folder.round(0).manifest["metrics"]
    (began, began_cpu), (played, played_cpu), (trained, trained_cpu) = clock.marks
    cpu_s["train"] = trained_cpu - played_cpu
    cpu_s["reference"] = played_cpu - began_cpu - cpu_s["generate"] - cpu_s["judge"]  # and everything in between
    stages = {stage: metrics[f"time/{stage}"] for stage in STAGES[:-1]} | {"train": trained - played}
    result.write_text(
        json.dumps(
            {
                "wall_s": stages,
                "total_s": trained - began,
                "cpu_s": cpu_s,
                "overlap_s": metrics.get("time/overlap", 0.0),
                "generated_tokens": metrics["cost/generated_tokens"],
                "trained_responses": metrics["round/trained_responses"],
            }
        )
    )


def run(name: str, command: list[str], cores: set[int], result: Path) -> dict[str, Any]:
    """Runs a command on some cores and reads what it wrote."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return json.loads(result.read_text())


def report(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Prints the three rounds stage by stage; returns the two figures."""
    single, both, official = found["one by one"], found["side by side"], found["official"]
    for kind, unit in (("wall_s", "seconds"), ("cpu_s", "CPU seconds")):
        print(f"\n{unit:<14}" + "".join(f"{stage:>11}" for stage in (*STAGES, "total")))
        for name, entry in found.items():
            total = entry["total_s"] if "total_s" in entry and kind == "wall_s" else sum(entry[kind].values())
            cells = [f"{entry[kind][stage]:11.1f}" if stage in entry[kind] else f"{'-':>11}" for stage in STAGES]
            print(f"{name:<14}{''.join(cells)}{total:11.1f}")
    stages = single["wall_s"].values()
    bound = max(max(stages), sum(stages) / 2)
    played = list(stages)[:-1]
    play_bound = max(max(played), sum(played) / 2)
    figures = {
        "playing_over_its_bound": (both["total_s"] - both["wall_s"]["train"]) / play_bound,
        "bound_s": bound,
        "total_over_bound": both["total_s"] / bound,
        "largest_share": max(stages) / sum(stages),
        "official_over_ours": sum(official["wall_s"].values()) / both["total_s"],
        "official_over_one_by_one": sum(official["wall_s"].values()) / single["total_s"],
    }
    print(
        f"\nslowest stage: {figures['largest_share']:.0%} of the sum; max(slowest, half of the sum): {bound:.1f} s; "
        f"side by side takes {figures['total_over_bound']:.2f} times that, playing alone "
        f"{figures['playing_over_its_bound']:.2f} times its own\n"
        f"official scripts' way: {figures['official_over_ours']:.2f} times as long as side by side, "
        f"{figures['official_over_one_by_one']:.2f} times as long as one by one"
    )
    return figures


def main() -> None:
    """Makes the assets, runs the three, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / time.strftime("round_benchmark_%Y%m%d_%H%M%S"))
    parser.add_argument("--prompts", type=int, default=56)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--chunk_prompts", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=96)
    parser.add_argument("--global_batch_prompts", type=int, default=16)
    parser.add_argument("--play", type=Path, nargs=2, metavar=("ROOT", "RESULT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    assets = args.out / "assets"
    if args.play:
        play(assets, *args.play)
        return
    from round_assets import make_assets

    for folder in ("policy", "judge"):
        (assets / folder).mkdir(parents=True)
    make_assets(assets, args.prompts)
    settings = {
        "num_candidates": args.candidates,
        "chunk_prompts": args.chunk_prompts,
        "max_new_tokens": args.max_new_tokens,
        "global_batch_prompts": args.global_batch_prompts,
    }
    (assets / "settings.json").write_text(json.dumps(settings))
    cores = sorted(os.sched_getaffinity(0))[:2]
    found = {}
    for name, allowed in (("side by side", set(cores)), ("one by one", {cores[0]})):
        result = args.out / f"{name.replace(' ', '_')}.json"
        # Verdicts are kept beside the run's folder: each run has a parent of its own.
        command = [__file__, "--out", str(args.out), "--play", str(args.out / result.stem / "run"), str(result)]
        found[name] = run(name, command, allowed, result)
    result = args.out / "official.json"
    script = Path(__file__).parent / "peer" / "official_round.py"
    found["official"] = run("official", [str(script), str(assets), str(result)], set(cores), result)
    figures = report(found)
    content = {
        "machine": platform.platform(),
        "cores": len(cores),
        "date": time.strftime("%Y-%m-%d"),
        "settings": settings | {"prompts": args.prompts},
        "rounds": found,
        "figures": figures,
    }
    (args.out / "results.json").write_text(json.dumps(content, indent=2))
    print(f"written to {args.out / 'results.json'}")


if __name__ == "__main__":
    main()
