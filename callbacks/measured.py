"""What was measured of a round: written first, then logged."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
from sppo_lightning.callbacks.round_end import log_metrics

from sppo_lightning.io.files import read_json, write_json_atomic
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import policy_name


def log_measured(
    trainer: pl.Trainer,
    module: PolicyModule,
    round_index: int,
    name: str,
    measure: Callable[[], dict[str, float]],
) -> dict[str, float]:
    """Metrics of a round from `eval/round_003/<name>.json`, measured now if they are not there, sent to every logger.

    The file comes first: what a kill has logged again is then the same. The ends of intervals (`..._low`, `..._high`)
    stay in it. Every rank must call this.

    Args:
        trainer: the run's.
        module: the run's.
        round_index: the round whose policy has just been exported.
        name: the file's.
        measure: computes the metrics, on rank 0 alone.
    """
    path = module.run_folder.evaluation(policy_name(round_index + 1)) / f"{name}.json"
    if trainer.is_global_zero and not path.is_file():
        write_json_atomic(path, measure(), kind=name)
    trainer.strategy.barrier()
    metrics = read_json(path)
    log_estimates(trainer, metrics, step=round_index)
    return metrics


def log_estimates(trainer: pl.Trainer, metrics: dict[str, float], step: int) -> None:
    """Sends metrics to every logger, without the ends of intervals.

    They would be two charts more for every chart that is worth looking at; the report draws them.
    """
    shown = {key: value for key, value in metrics.items() if not key.endswith(("_low", "_high"))}
    log_metrics(trainer, shown, step=step)
