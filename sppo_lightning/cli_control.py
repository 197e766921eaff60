"""`fit` for control tasks: the same command, run folder, lock and record with other classes behind the keys."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl

# Short class names (`--data.preference Noisy`) find what has been imported.
import sppo_lightning.callbacks.control  # noqa: F401
from sppo_lightning.cli import SelfPlayCLI
from sppo_lightning.cli_files import read_config_files
from sppo_lightning.cli_settings import REFUSED
from sppo_lightning.cli_types import imported
from sppo_lightning.control.data import TrajectoryDataModule
from sppo_lightning.control.module import ControlModule

_SAME = ("max_time", "gradient_clip_val", "gradient_clip_algorithm", "reload_dataloaders_every_n_epochs")
_ROUNDS = ("max_epochs", "max_steps", "min_epochs", "min_steps")


class ControlCLI(SelfPlayCLI):
    """Parses, checks, takes the run folder and fits as for language."""

    model_kind: ClassVar[type[pl.LightningModule]] = ControlModule
    data_kind: ClassVar[type[pl.LightningDataModule]] = TrajectoryDataModule
    refused: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(REFUSED, "leave it out: a round is one update of the learner, in one process"),
        **{key: REFUSED[key] for key in _SAME},
        **dict.fromkeys(_ROUNDS, "write data.num_rounds"),
        "accumulate_grad_batches": "write model.batch_size",
        "limit_train_batches": "write data.episodes_per_round",
        "overfit_batches": "write data.episodes_per_round",
        "fast_dev_run": "write data.num_rounds 1",
    }
    default_callbacks: ClassVar[Sequence[str]] = [
        f"sppo_lightning.callbacks.control.{name}" for name in ("ControlProgress", "ControlEvaluation")
    ]

    def num_epochs(self, model: Any, data: Any) -> int:
        """A round is an epoch of one batch."""
        return data.num_rounds

    def announcement(self, model: Any, data: Any) -> str:
        """See the base class."""
        reward, preference = (_kind(member) for member in (model.reward, data.preference))
        return f"{reward} on {data.task.name}, judged by {preference} (seed {data.seed})"


def is_control(argv: Sequence[str]) -> bool:
    """Whether the last word on the class of the data names a `TrajectoryDataModule`.

    Args:
        argv: the arguments behind the verb.
    """
    chosen = [text for file in read_config_files(argv) for _, text in file.find("data.class_path") if text]
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--data", "--data.class_path"):
            chosen.append(value if equals else following)
    if not chosen:
        return False
    owner = imported(chosen[-1])
    return chosen[-1] == TrajectoryDataModule.__name__ or (
        inspect.isclass(owner) and issubclass(owner, TrajectoryDataModule)
    )


def _kind(member: object) -> str:
    return type(member).__name__.removeprefix("LazyInstance_")
