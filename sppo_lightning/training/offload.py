"""The memory of training lent to an engine: weights and optimiser wait in main memory while responses are sampled."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch import Trainer
from torch import Tensor

_HOST = torch.device("cpu")


class TrainingMemory:
    """`engines.base.MemoryLender` over a Trainer; on a machine without a GPU there is nothing to move.

    Tensors move in place, so that the optimisers go on with the same parameters.

    Args:
        trainer: whose module and optimisers move.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._away: list[Tensor] = []

    def lend(self) -> None:
        """Moves weights and optimiser states to main memory, drops gradients, and frees the device's cache."""
        device = self._trainer.strategy.root_device
        if self._away or device.type == _HOST.type:
            return
        for parameter in self._trainer.lightning_module.parameters():
            parameter.grad = None  # of the last step; the next one begins without
        # Not what lies in main memory anyway, such as Adam's step counts: it must not come back to the device.
        self._away = [tensor for tensor in self._tensors() if tensor.device.type == device.type]
        for tensor in self._away:
            tensor.data = copied(tensor.data, _HOST)
        torch.cuda.empty_cache()

    def take_back(self) -> None:
        """Moves them back, if they are away."""
        for tensor in self._away:
            tensor.data = copied(tensor.data, self._trainer.strategy.root_device)
        self._away = []

    def _tensors(self) -> Iterator[Tensor]:
        module = self._trainer.lightning_module
        yield from module.parameters()
        yield from module.buffers()
        for optimizer in self._trainer.optimizers:
            for state in optimizer.state.values():
                yield from (value for value in state.values() if isinstance(value, Tensor))


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """The same numbers on another device."""
    return tensor.to(device)
