"""Batches made by hand, and one fit of the real module on them without a round being played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


def random_groups(count: int, seed: int = 0, masked: bool = True) -> list[Any]:
    """Prompts of one to four responses; some rows and pairs are masked and hold what must not be read."""
    from sppo_lightning.selfplay.dataset import PromptGroup

    generator = torch.Generator().manual_seed(seed)

    def numbers(size: int, low: float, high: float) -> list[float]:
        return (low + (high - low) * torch.rand(size, generator=generator)).tolist()

    def tokens(most: int) -> list[int]:
        length = int(torch.randint(1, most, (1,), generator=generator))
        return torch.randint(3, 12, (length,), generator=generator).tolist()

    groups = []
    for b in range(count):
        R = b % 4 + 1
        pairs = [(i, j) for i in range(R) for j in range(i)]
        weights, rates = numbers(R, 0.5, 1.5), numbers(R, 0, 1)
        if masked and R > 1:
            weights[0], rates[0] = 0.0, float("nan")
        groups.append(
            PromptGroup(
                prompt_id=f"p{b}",
                prompt_ids=[1, *tokens(8)],
                response_ids=[[*tokens(9), 2] for _ in range(R)],
                candidates=range(R),
                win_rates=rates,
                scores=None,
                row_weights=weights,
                pairs=pairs,
                pair_probs=numbers(len(pairs), 0.5, 1),
                pair_weights=[0.0 if masked and j == 0 else 1.0 for _, j in pairs],
                frozen_logps={"previous": numbers(R, -30, -10), "anchor": numbers(R, -30, -10)},
                log_z=None,
            )
        )
    return groups


def one_fit(root: Path, policy: Path, batches: Sequence[Any], *, log_every_n_steps: int = 1, **module_args: Any):
    """Fits the real module on ready-made global batches, one step each.

    Returns:
        `gradients` (a list of name -> gradient as the optimiser saw it, one a step), `logged`, `module`.
    """
    from lightning.pytorch import Callback, LightningDataModule, Trainer
    from lightning.pytorch.loggers import Logger

    from sppo_lightning.training.module import PolicyModule
    from sppo_lightning.training.schedule import Position

    seen = SimpleNamespace(gradients=[], logged={}, module=None)

    class Recorder(Logger):
        name, version = "run", 0

        def log_metrics(self, metrics, step=None):
            assert step not in seen.logged
            seen.logged[step] = metrics

        def log_hyperparams(self, params):
            pass

    class Spy(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.gradients.append({name: p.grad.clone() for name, p in pl_module.policy.named_parameters()})

    class Steps:
        def __len__(self):
            return len(batches)

        def __iter__(self):
            return iter(batches)

    class Batches(LightningDataModule):
        epochs_per_round, first_round, stop_after, export_every, max_pack_tokens = 1, 0, None, 1, 8192

        def exports_after(self, round_index):
            return True

        def position(self, epoch):
            return Position(round=0, epoch=0, last_epoch=True, phase_ends=True)

        def train_dataloader(self):
            return Steps()

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return batch

    arguments = {
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        "lr_schedule": "constant",
        "max_grad_norm": None,
    }
    seen.module = PolicyModule(str(policy), **arguments | module_args)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=root,
        max_epochs=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=log_every_n_steps,
        logger=Recorder(),
        callbacks=[Spy()],
    )
    trainer.fit(seen.module, datamodule=Batches())
    return seen


@pytest.fixture
def fit_batches(tmp_path: Path, policy_folder: Path) -> Callable[..., SimpleNamespace]:
    """fit_batches(batches, **module_args): see `one_fit`; each fit has a folder of its own."""
    made = []

    def fit_batches(batches, policy=policy_folder, **arguments):
        made.append(one_fit(tmp_path / str(len(made)), policy, batches, **arguments))
        return made[-1]

    return fit_batches


@pytest.fixture
def groups() -> Callable[..., list[Any]]:
    """groups(count) -> random prompts, see `random_groups`."""
    return random_groups
