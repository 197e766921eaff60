"""The memory of training lent to an engine: weights and optimiser wait in main memory while responses are sampled."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from torch import nn


class TrainingMemory:
    """`engines.base.MemoryLender` over a Trainer; on a machine without a GPU there is nothing to move.

    Args:
        trainer: whose module and optimisers move.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._away = False

    def lend(self) -> None:
        """Moves weights, gradients and optimiser states to main memory and frees the device's cache."""
        if self._away or self._device.type == "cpu":
            return
        move_training(self._trainer.lightning_module, self._trainer.optimizers, torch.device("cpu"))
        torch.cuda.empty_cache()
        self._away = True

    def take_back(self) -> None:
        """Moves them back, if they are away."""
        if self._away:
            move_training(self._trainer.lightning_module, self._trainer.optimizers, self._device)
            self._away = False

    @property
    def _device(self) -> torch.device:
        return self._trainer.strategy.root_device


def move_training(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """Moves a model and what its optimisers remember, in place: the optimisers go on with the same parameters."""
    for parameter in [*module.parameters(), *module.buffers()]:
        parameter.data = parameter.data.to(device)
        if parameter.grad is not None:
            parameter.grad.data = parameter.grad.data.to(device)
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[name] = value.to(device)
