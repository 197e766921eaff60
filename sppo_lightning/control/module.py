"""The policy of a control task in training: one Lightning batch is one round, and one update of the learner."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from jsonargparse import lazy_instance
from torch.optim import Optimizer

from sppo_lightning.control.learner import Learner
from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.control.rewards import QueueWinRate, RewardSource
from sppo_lightning.control.rounds import Round
from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.training.checkpoint import RoundCheckpoint
from sppo_lightning.training.run_folder import RunFolder

if TYPE_CHECKING:
    from sppo_lightning.control.data import TrajectoryDataModule

START = "start"
"""The export of the policy before training."""


class ControlModule(pl.LightningModule):
    """Trains a Gaussian policy on judged trajectories with stable-baselines3's PPO.

    Args:
        reward: where the learner's rewards come from. QueueWinRate is SPO, LearnedReward iterative reward modelling.
        hidden_sizes: widths of the hidden layers of the actor and of the critic.
        initial_log_std: log of the actions' standard deviation before training; the task's bounds are -1 and 1.
        learning_rate: of Adam, constant.
        num_epochs: passes over a round's steps.
        batch_size: steps in one mini-batch.
        discount: gamma. 1, because a preference is about the whole of an episode of fixed length.
        gae_lambda: of generalised advantage estimation, arXiv 1506.02438.
        clip_range: PPO's.
        entropy_coef: weight of the entropy bonus.
        max_grad_norm: gradients are clipped to this 2-norm.
    """

    def __init__(
        self,
        reward: RewardSource = lazy_instance(QueueWinRate),  # noqa: B008 - how jsonargparse shows a class as a default
        hidden_sizes: tuple[int, ...] = (64, 64),
        initial_log_std: float = 0.0,
        learning_rate: float = 1e-3,
        num_epochs: int = 10,
        batch_size: int = 128,
        discount: float = 1.0,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        entropy_coef: float = 0.0,
        max_grad_norm: float = 0.5,
    ) -> None:
        super().__init__()
        positive = {"learning_rate": learning_rate, "clip_range": clip_range, "max_grad_norm": max_grad_norm}
        for name, value in positive.items():
            if value <= 0:
                raise ConfigError(f"model.{name} must be positive, got {value}")
        for name, value, least in (("num_epochs", num_epochs, 1), ("batch_size", batch_size, 2)):
            if value < least:
                raise ConfigError(f"model.{name} must be at least {least}, got {value}")
        for name, value in (("discount", discount), ("gae_lambda", gae_lambda)):
            if not 0 < value <= 1:
                raise ConfigError(f"model.{name} must lie in (0, 1], got {value}")
        self.automatic_optimization = False
        self.reward = reward
        self.hidden_sizes, self.initial_log_std = hidden_sizes, initial_log_std
        self._settings = {
            "learning_rate": learning_rate,
            "n_epochs": num_epochs,
            "batch_size": batch_size,
            "gamma": discount,
            "gae_lambda": gae_lambda,
            "clip_range": clip_range,
            "ent_coef": entropy_coef,
            "max_grad_norm": max_grad_norm,
        }
        self.policy: ControlPolicy  # made by configure_model, as is the learner
        self.learner: Learner
        self.rounds_finished = 0
        self.cost = {"cost/env_steps": 0.0, "cost/comparisons": 0.0}
        self.round_metrics: dict[str, float] = {}
        """What was measured of the newest round."""

    @property
    def run_folder(self) -> RunFolder:
        """Where this run lives."""
        return RunFolder(self.trainer.default_root_dir)

    @property
    def _data(self) -> TrajectoryDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Makes the start policy, whose weights the seed decides."""
        if not hasattr(self, "policy"):
            task, seed = self._data.task, self._data.seed
            self.policy = ControlPolicy(
                task, self.hidden_sizes, self.initial_log_std, derive_seed(seed, "weights") % 2**31
            )
            self.reward.build(task, derive_seed(seed, "reward weights") % 2**31)
            self.learner = Learner(self.policy, **self._settings)

    def configure_optimizers(self) -> list[Optimizer]:
        """The learner's and the reward's own: they step themselves, Lightning keeps them in the checkpoint."""
        return [self.learner.optimizer, *([self.reward.optimizer] if self.reward.optimizer else [])]

    def configure_callbacks(self) -> list[pl.Callback]:
        """Checkpoints are part of the loop, not a matter of configuration."""
        return [RoundCheckpoint(every_n_steps=1)]

    def on_train_start(self) -> None:
        """Keeps the start policy, to measure by."""
        folder = self.run_folder.path / "exports" / START
        if self.rounds_finished == 0 and not folder.is_dir():
            self.policy.export(folder)

    def training_step(self, batch: Round, batch_idx: int) -> None:
        """Rewards the round's trajectories and trains on them."""
        began, seed = time.perf_counter(), self._data.seed
        fitted = self.reward.fit(self._data.history(batch.index), derive_seed(seed, "fit", batch.index))
        rewards_NH = self.reward.rewards(batch)
        trained = self.learner.update(batch.trajectories, rewards_NH, derive_seed(seed, "train", batch.index))
        crash_point("after_optimizer_step")
        for name in self.cost:
            self.cost[name] += batch.metrics[name]
        self.round_metrics = {
            **fitted,
            **trained,
            # Watched, never learned from.
            "round/true_return": float(np.mean([each.true_return for each in batch.trajectories])),
            "round/episode_steps": float(np.mean([each.length for each in batch.trajectories])),
            "round/reward_spread": float(rewards_NH.sum(axis=1).std()),
            **{name: value for name, value in batch.metrics.items() if name.startswith("time/")},
            "time/train": time.perf_counter() - began,
            **self.cost,
        }
        # At once: before the checkpoint, or a kill could lose them.
        for logger in self.loggers:
            logger.log_metrics(self.round_metrics, step=batch.index)
        crash_point("after_step_metrics")

    def on_train_batch_end(self, outputs: Any, batch: Round, batch_idx: int) -> None:
        """Exports pi_{t+1} before any callback's end of the epoch looks for it."""
        self.rounds_finished = batch.index + 1
        folder = self.run_folder.export(batch.index)
        if self._data.exports_after(batch.index) and not folder.is_dir():
            self.policy.export(folder)

    def on_train_epoch_end(self) -> None:
        """The checkpoint is written after this."""
        crash_point("before_epoch_checkpoint")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the run's place. All that is random follows from the seed and the round."""
        checkpoint["control"] = {"rounds_finished": self.rounds_finished, "cost": self.cost}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reads it back."""
        self.rounds_finished = checkpoint["control"]["rounds_finished"]
        self.cost = dict(checkpoint["control"]["cost"])
