"""What the callbacks that report on a round share: when a round ends, and where its numbers go."""

from __future__ import annotations

import lightning.pytorch as pl

from sppo_lightning.training.data import SelfPlayDataModule
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.tracking import RunLogger


class RoundEndCallback(pl.Callback):
    """Calls `on_round_end` after the last epoch of a round whose pi_{t+1} is exported, before the checkpoint.

    A kill in between has it called again after the restart, so it must be able to meet its own earlier output.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See the class."""
        assert isinstance(pl_module, PolicyModule)
        position = pl_module.position
        if position.last_epoch and self_play_data(trainer).exports_after(position.round):
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


def rounds_so_far(data: SelfPlayDataModule, module: PolicyModule, last: int) -> list[dict[str, float]]:
    """What was measured of this run's rounds up to `last`; the costs and seconds of a round's phases are summed."""
    rounds = []
    for index in range(data.first_round, last + 1):
        phases = [
            module.run_folder.round(index, phase).manifest["metrics"] for phase in range(len(module.schedule.phases))
        ]
        measured = dict(phases[0])
        for metrics in phases[1:]:
            for name, value in metrics.items():
                if name.startswith(("cost/", "time/")):
                    measured[name] += value
        rounds.append(measured)
    return rounds
