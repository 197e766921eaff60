"""What the callbacks that report on a round share: when a round ends, and where its numbers go."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from sppo_lightning.training.data import SelfPlayDataModule
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.tracking import RunLogger


class RoundEndCallback(pl.Callback):
    """Calls `on_round_end` after the last epoch of a round, when pi_{t+1} is exported and before the checkpoint.

    A kill in between has it called again after the restart, so it must be able to meet its own earlier output.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See the class."""
        assert isinstance(pl_module, PolicyModule)
        position = pl_module.position
        if position.last_epoch:
            self.on_round_end(trainer, pl_module, position.round)

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """Round `round_index` has been trained and exported."""
        raise NotImplementedError


def self_play_data(trainer: pl.Trainer) -> SelfPlayDataModule:
    """The run's data module."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, SelfPlayDataModule)
    return data


def log_metrics(trainer: pl.Trainer, metrics: dict[str, float], step: int) -> None:
    """Sends metrics to every logger, at once: before the checkpoint, or a kill could lose them."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=step)


def run_loggers(trainer: pl.Trainer) -> list[RunLogger]:
    """The loggers that take tables, text and files; none on ranks other than 0."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger) and trainer.is_global_zero]


def rounds_so_far(data: SelfPlayDataModule, module: PolicyModule, last: int) -> list[dict[str, Any]]:
    """The manifests of this run's rounds up to `last`."""
    return [module.run_folder.round(index).manifest for index in range(data.first_round, last + 1)]
