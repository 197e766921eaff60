"""What playing and training a round measured and cost."""

from __future__ import annotations

import time

import lightning.pytorch as pl
from sppo_lightning.callbacks.round_end import (
    RoundEndCallback,
    log_metrics,
    rounds_so_far,
    run_loggers,
    self_play_data,
)

from sppo_lightning.training.module import PolicyModule


class RoundMetrics(RoundEndCallback):
    """Logs `round/*` of the played data (they describe pi_t), `cost/*` summed over the rounds, and `time/*` seconds.

    Times are those of the processes that finished a stage: work that a kill made them repeat is not counted twice.
    """

    def __init__(self) -> None:
        self._train_seconds = 0.0
        self._epoch_began = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        assert isinstance(pl_module, PolicyModule)
        if pl_module.position.first_epoch:
            self._train_seconds = 0.0
        self._epoch_began = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock."""
        self._train_seconds += time.perf_counter() - self._epoch_began
        super().on_train_epoch_end(trainer, pl_module)

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        manifests = rounds_so_far(self_play_data(trainer), module, round_index)
        metrics = dict(manifests[-1]["metrics"])
        for name in metrics:
            if name.startswith("cost/"):
                metrics[name] = sum(manifest["metrics"][name] for manifest in manifests)
        log_metrics(trainer, metrics | {"time/train": self._train_seconds}, step=round_index)
        for logger in run_loggers(trainer):
            folder = module.run_folder.round(round_index)
            logger.log_artifact_once(folder.path / "manifest.json", f"rounds/{folder.path.name}")
