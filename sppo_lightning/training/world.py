"""The processes of a run, as a round sees them."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


class TrainerWorld:
    """`types.World` over a Lightning Trainer's strategy."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.rank = trainer.global_rank
        self.size = trainer.world_size

    def barrier(self) -> None:
        """Waits until every process is here."""
        self._trainer.strategy.barrier()

    def broadcast(self, value: Any) -> Any:
        """Returns rank 0's value on every rank."""
        return self._trainer.strategy.broadcast(value)
