"""Bars for every long stage of a run: generating, judging, reference, training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from sppo_lightning.callbacks.round_end import self_play_data

from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.progress import StageProgress
from sppo_lightning.types import ProgressBar


class RoundProgress(pl.Callback):
    """Shows a rate and an ETA for each stage; Lightning's own bar would be silent while a round is played."""

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._progress: StageProgress | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the data module something to report to."""
        self._progress = StageProgress(rank=trainer.global_rank)
        self_play_data(trainer).progress = self._progress

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Opens a bar for the rest of the epoch."""
        if self._bar is None and self._progress is not None:
            assert isinstance(pl_module, PolicyModule)
            position, epochs = pl_module.position, self_play_data(trainer).epochs_per_round
            label = f"round {position.round}: training epoch {position.epoch + 1}/{epochs}"
            self._bar = self._progress(label, int(trainer.num_training_batches) - batch_idx, "steps")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        if self._bar is not None:
            self._bar.update(1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the error stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
