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

from sppo_lightning.io.files import read_json, write_json_atomic
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import policy_name


class RoundMetrics(RoundEndCallback):
    """Logs `round/*` of the played data (they describe pi_t), `cost/*` summed over the rounds, and `time/*` seconds.

    They are written to `eval/round_003/round.json` first, so that what is logged again after a kill is the same.
    Work that a kill made a process repeat is not counted twice: of playing, the process that finished a stage is timed,
    and the seconds of training travel in the checkpoint.
    """

    def __init__(self) -> None:
        self._train_seconds = 0.0
        self._counted_until = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; after a resume within an epoch nothing else does."""
        self._counted_until = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock again, behind what came between two epochs."""
        assert isinstance(pl_module, PolicyModule)
        if pl_module.position.first_epoch and pl_module.position.phase == 0:
            self._train_seconds = 0.0
        self._counted_until = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the clock before the round's end is reported."""
        self._count()
        super().on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, float]:
        """The seconds of training that the checkpoint holds the result of."""
        self._count()
        return {"train_seconds": self._train_seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Goes on counting from there."""
        self._train_seconds = state_dict["train_seconds"]

    def _count(self) -> None:
        now = time.perf_counter()
        self._train_seconds += now - self._counted_until
        self._counted_until = now

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        path = module.run_folder.evaluation(policy_name(round_index + 1)) / "round.json"
        if trainer.is_global_zero and not path.is_file():
            rounds = rounds_so_far(self_play_data(trainer), module, round_index)
            metrics = rounds[-1] | {"time/train": self._train_seconds}
            for name in metrics:
                if name.startswith("cost/"):
                    metrics[name] = sum(measured.get(name, 0.0) for measured in rounds)
            write_json_atomic(path, metrics, kind="round_metrics")
        trainer.strategy.barrier()
        log_metrics(trainer, read_json(path), step=round_index)
        for logger in run_loggers(trainer):
            folder = module.run_folder.round(round_index)
            logger.log_artifact_once(folder.path / "manifest.json", f"rounds/{folder.path.name}")
