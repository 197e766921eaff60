"""One measurement of this package's training step, in a process of its own; `benchmarks/step.py` runs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from step_workload import Pair, counted_tokens, make_model, make_pairs, matrix_parameters, peak_mb, resident_mb

from sppo_lightning.functional.logps import response_loss
from sppo_lightning.functional.precision import compute_in
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.objectives import SPPO
from sppo_lightning.selfplay.dataset import PromptGroup, RoundDataset
from sppo_lightning.training.reference import frozen_logps

PACK_TOKENS = 8192
LEARNING_RATE = 5e-7


def dataset(pairs: Sequence[Pair], model: Any, num_pairs: int) -> tuple[RoundDataset, float]:
    """The pairs as a round with its reference log-probabilities, and the CPU seconds these took without warm-up."""
    groups, cpu_s = [], 0.0
    for first in range(0, len(pairs), num_pairs):
        began = time.process_time()
        batch = pairs[first : first + num_pairs]
        rows = TokenRows(
            prompt_ids=[pair.prompt for pair in batch for _ in range(2)],
            response_ids=[ids for pair in batch for ids in (pair.chosen, pair.rejected)],
        )
        logps = frozen_logps(SimpleNamespace(model=model), rows, PACK_TOKENS).tolist()  # type: ignore[arg-type]
        cpu_s += time.process_time() - began if first else 0.0
        groups += [
            PromptGroup(
                prompt_id=str(first + index),
                prompt_ids=pair.prompt,
                response_ids=[pair.chosen, pair.rejected],
                candidates=(0, 1),
                win_rates=(pair.prob, 1 - pair.prob),
                scores=None,
                row_weights=(1.0, 1.0),
                pairs=((0, 1),),
                pair_probs=(pair.prob,),
                pair_weights=(1.0,),
                frozen_logps={"previous": logps[2 * index : 2 * index + 2]},
                log_z=None,
            )
            for index, pair in enumerate(batch)
        ]
    return RoundDataset(groups, seed=0, round_index=0), cpu_s


def bare_steps(model: Any, data: RoundDataset, num_pairs: int, steps: int) -> list[float]:
    """CPU seconds after each step of a plain loop: packs, loss, clipping, AdamW."""
    objective = SPPO(eta=1e3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    marks = []
    for step in range(steps + 1):
        indices = range(step * num_pairs, (step + 1) * num_pairs)
        optimizer.zero_grad()
        for pack in data.batch(indices, rank=0, world_size=1, max_pack_tokens=PACK_TOKENS).packs:
            fixed = pack.inputs(torch.empty(0))

            def loss_of(logps_R: torch.Tensor, fixed: Any = fixed) -> torch.Tensor:
                outputs = objective(replace(fixed, policy_logps_R=logps_R))
                return (outputs.loss * outputs.weight).sum() / outputs.weight.sum()

            response_loss(model, pack.rows, loss_of).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        marks.append(time.process_time())
    return marks


def fit_steps(model: Any, data: RoundDataset, num_pairs: int, steps: int, dtype: str) -> list[float]:
    """CPU seconds after each step of `PolicyModule` under Lightning's trainer, metrics every step."""
    import logging
    import tempfile

    from lightning.pytorch import Callback, LightningDataModule, Trainer
    from lightning.pytorch.loggers import CSVLogger

    from sppo_lightning.training.module import PolicyModule
    from sppo_lightning.training.schedule import Position

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    marks: list[float] = []

    class Marks(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            marks.append(time.process_time())

    class Steps:
        def __len__(self) -> int:
            return steps + 1

        def __iter__(self) -> Any:
            for step in range(steps + 1):
                indices = range(step * num_pairs, (step + 1) * num_pairs)
                yield data.batch(indices, rank=0, world_size=1, max_pack_tokens=PACK_TOKENS)

    class Batches(LightningDataModule):
        epochs_per_round, first_round, stop_after, export_every, max_pack_tokens = 1, 0, None, 1, PACK_TOKENS

        def exports_after(self, round_index: int) -> bool:
            return False

        def position(self, epoch: int) -> Position:
            return Position(round=0, epoch=0, last_epoch=False, phase_ends=False)

        def train_dataloader(self) -> Steps:
            return Steps()

        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            return batch

    module = PolicyModule(
        "unused",
        objective=SPPO(eta=1e3),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True),
        lr_schedule="constant",
        warmup_ratio=0.0,
        dtype=dtype,  # type: ignore[arg-type]
    )
    module.policy = model
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            default_root_dir=folder,
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            logger=CSVLogger(folder),
            callbacks=[Marks()],
        )
        trainer.fit(module, datamodule=Batches())
    return marks


def gemm_gflops(rows: int, columns: int, outputs: int) -> float:
    """The best rate of a float32 matrix product, GFLOP per CPU second."""
    left, right = torch.randn(rows, columns), torch.randn(outputs, columns)
    best = float("inf")
    for _ in range(6):
        began = time.process_time()
        torch.nn.functional.linear(left, right)
        best = min(best, time.process_time() - began)
    return 2 * rows * columns * outputs / 1e9 / best


def limit_cpu_s(name: str, pairs: Sequence[Pair]) -> float:
    """What the matrix products of the steps would take at the best rates of their shapes: 6 FLOP a parameter and token.

    The body sees each prompt once, the head the responses only.
    """
    body, head = matrix_parameters(name)
    responses = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    prompts = sum(len(pair.prompt) for pair in pairs)
    body_rate = gemm_gflops(2000, 384, 1024)
    head_rate = gemm_gflops(128, 512, 128256) if name == "M" else gemm_gflops(512, 384, 32000)
    return 6e-9 * (body * (prompts + responses) / body_rate + head * responses / head_rate)


def main() -> None:
    """Prints one JSON line."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--through", choices=["bare", "fit"], required=True)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.through == "fit":
        import lightning.pytorch  # noqa: F401 - part of the memory before, as it is for a user
    pairs = make_pairs((arguments.steps + 1) * arguments.pairs)
    timed = pairs[arguments.pairs :]
    limit_s = limit_cpu_s(arguments.model, timed)
    model = make_model(arguments.model)
    if arguments.bf16:
        compute_in(model, torch.bfloat16)
    dtype = "bfloat16-mixed" if arguments.bf16 else "float32"
    before = resident_mb()
    data, reference_s = dataset(pairs, model, arguments.pairs)
    if arguments.through == "bare":
        marks = bare_steps(model, data, arguments.pairs, arguments.steps)
    else:
        marks = fit_steps(model, data, arguments.pairs, arguments.steps, dtype)
    print(
        json.dumps(
            {
                "tokens": counted_tokens(timed),
                "step_cpu_s": marks[-1] - marks[0],
                "reference_cpu_s": reference_s,
                "memory_mb": peak_mb() - before,
                "limit_cpu_s": limit_s,
            }
        )
    )


if __name__ == "__main__":
    main()
