"""One PPO update of stable-baselines3 on episodes that are played and rewarded already.

stable-baselines3 rather than an own PPO: it is maintained, tested and small, its update is one method, and the buffer
it reads may be filled by anybody. Nothing of it but weights and optimiser outlives an update: what is random in one
follows from the seed that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.trajectory_preferences import Trajectory

# What its log says -> what ours does.
_METRICS = {
    "train/policy_gradient_loss": "train/policy_loss",
    "train/value_loss": "train/value_loss",
    "train/approx_kl": "train/approx_kl",
    "train/clip_fraction": "train/clip_fraction",
    "train/explained_variance": "train/explained_variance",
    "train/std": "train/action_std",
}


class Learner:
    """PPO (arXiv 1707.06347) for a `ControlPolicy`.

    Args:
        policy: trained in place.
        settings: arguments of `stable_baselines3.PPO`.
    """

    def __init__(self, policy: ControlPolicy, **settings: Any) -> None:
        from stable_baselines3 import PPO
        from stable_baselines3.common.logger import Logger

        rate, batch_size = settings["learning_rate"], settings["batch_size"]
        self.policy = policy
        self._ppo = PPO(
            "MlpPolicy", _spaces_only(policy), n_steps=batch_size, device="cpu", **settings, _init_setup_model=False
        )
        self._ppo._setup_model()
        policy.net.optimizer = torch.optim.Adam(policy.net.parameters(), lr=rate, eps=1e-5)  # eps as theirs
        self._ppo.policy = policy.net
        self._ppo.set_logger(Logger(folder=None, output_formats=[]))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """PPO's; Lightning keeps it in the checkpoint."""
        return self.policy.net.optimizer

    def update(self, trajectories: Sequence[Trajectory], rewards_NH: Array, seed: int) -> dict[str, float]:
        """Trains on a round's episodes, which the policy must have played as it now is.

        Args:
            trajectories: N episodes.
            rewards_NH: [N, H] the reward of every step. What stands in the padding after an early end is paid at the
                last step, as if the episode had stayed where it ended.
            seed: of the order of mini-batches.

        Returns:
            `train/*` metrics.
        """
        from stable_baselines3.common.buffers import RolloutBuffer

        rewards_NH = np.array(rewards_NH, dtype=np.float64)
        for row, trajectory in zip(rewards_NH, trajectories, strict=True):
            row[trajectory.length - 1] += row[trajectory.length :].sum()
        lengths = [trajectory.length for trajectory in trajectories]
        steps_R = np.concatenate([np.arange(length) for length in lengths])
        seen_RD = np.concatenate([each.observations_HD[: each.length] for each in trajectories])
        actions_RA = np.concatenate([each.actions_HA[: each.length] for each in trajectories])
        device = self.policy.standardiser.mean.device
        inputs_RD = self.policy.inputs(seen_RD, steps_R)
        with torch.no_grad():
            drawn_RA = torch.as_tensor(actions_RA, device=device)
            values_R, logps_R, _ = self.policy.net.evaluate_actions(inputs_RD, drawn_RA)
        buffer = RolloutBuffer(
            len(steps_R),
            self.policy.observation_space,
            self.policy.action_space,
            device,
            gae_lambda=self._ppo.gae_lambda,
            gamma=self._ppo.gamma,
        )
        # One environment's steps, one episode after the other: [R, 1, ...].
        buffer.observations[:, 0] = inputs_RD.cpu().numpy()
        buffer.actions[:, 0] = actions_RA
        buffer.rewards[:, 0] = np.concatenate([row[:length] for row, length in zip(rewards_NH, lengths, strict=True)])
        buffer.episode_starts[:, 0] = steps_R == 0
        buffer.values[:, 0] = values_R[:, 0].cpu().numpy()
        buffer.log_probs[:, 0] = logps_R.cpu().numpy()
        buffer.full = True
        # Every episode ends within the data: with a horizon that the critic sees there is nothing behind it.
        buffer.compute_returns_and_advantage(torch.zeros(1), dones=np.ones(1))
        self._ppo.rollout_buffer = buffer
        np.random.seed(seed % 2**32)
        self._ppo.train()
        self.policy.standardiser.update(torch.as_tensor(seen_RD, device=device))
        found = self._ppo.logger.name_to_value
        return {ours: float(found[theirs]) for theirs, ours in _METRICS.items()}


def _spaces_only(policy: ControlPolicy) -> Any:
    """PPO wants an environment; it is asked for its spaces and never stepped."""
    import gymnasium

    class Spaces(gymnasium.Env[Any, Any]):
        observation_space, action_space = policy.observation_space, policy.action_space

    return Spaces()
