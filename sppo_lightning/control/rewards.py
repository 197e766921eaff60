"""The socket for where a learner's rewards come from: SPO's win rates, a fitted reward model, or the task itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from sppo_lightning.control.labeller import win_rates
from sppo_lightning.control.policy import Standardiser
from sppo_lightning.control.rounds import Round
from sppo_lightning.control.task import Task
from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.trajectory_preferences import Trajectory


class RewardSource(nn.Module, ABC):
    """Turns a judged round into a reward for every step. What it learns is in its weights and its optimiser."""

    optimizer: torch.optim.Optimizer | None = None
    remembers = 0
    """How many earlier rounds it reads; -1: all of them."""

    def build(self, task: Task, seed: int) -> None:
        """Makes its networks, if it has any."""

    def fit(self, history: Sequence[Round], seed: int) -> dict[str, float]:
        """Learns from all rounds so far, the newest last.

        Returns:
            `train/*` metrics.
        """
        return {}

    @abstractmethod
    def rewards(self, newest: Round) -> Array:
        """[N, H] the reward of every step of the newest round's trajectories, padding included."""


class QueueWinRate(RewardSource):
    """SPO, arXiv 2401.04056: the win rate against recent trajectories is the reward.

    r_h = (2 win rate - 1) / H at each of the H steps, the split of the paper's practical algorithm. No reward model,
    no adversary, and the task's own rewards are not looked at.
    """

    def rewards(self, newest: Round) -> Array:
        """See the base class."""
        horizon = newest.trajectories[0].horizon
        return np.repeat((2 * win_rates(newest)[:, None] - 1) / horizon, horizon, axis=1)


class LearnedReward(RewardSource):
    """Iterative reward modelling: a reward of single steps, fitted again each round to all comparisons so far.

    Bradley-Terry: P(a beats b) = sigmoid(sum of a's rewards - sum of b's), Christiano et al., arXiv 1706.03741. It sees
    the comparisons that SPO sees, and no others. It sees neither the time nor what came before a step: it is Markovian.

    Args:
        hidden_sizes: widths of the hidden layers.
        learning_rate: of Adam.
        steps_per_round: gradient steps of each round's fit, which goes on from the last one.
        batch_pairs: comparisons in one gradient step.
    """

    remembers = -1

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (64, 64),
        learning_rate: float = 1e-3,
        steps_per_round: int = 30,
        batch_pairs: int = 32,
    ) -> None:
        super().__init__()
        if learning_rate <= 0:
            raise ConfigError(f"model.reward.learning_rate must be positive, got {learning_rate}")
        for name, value in (("steps_per_round", steps_per_round), ("batch_pairs", batch_pairs)):
            if value < 1:
                raise ConfigError(f"model.reward.{name} must be at least 1, got {value}")
        self.hidden_sizes, self.learning_rate = hidden_sizes, learning_rate
        self.steps_per_round, self.batch_pairs = steps_per_round, batch_pairs

    def build(self, task: Task, seed: int) -> None:
        """See the base class."""
        sizes = [task.observation_size + task.action_size, *self.hidden_sizes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.Tanh())]
            self.net = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))
        self.standardiser = Standardiser(task.observation_size)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=self.learning_rate)

    def fit(self, history: Sequence[Round], seed: int) -> dict[str, float]:
        """See the base class."""
        assert self.optimizer is not None
        newest = history[-1].trajectories
        seen_RD = np.concatenate([each.observations_HD[: each.length] for each in newest])
        self.standardiser.update(torch.as_tensor(seen_RD, device=self.standardiser.mean.device))
        trajectories = [trajectory for played in history for trajectory in played.trajectories]
        first_C, second_C, prob_C = (
            np.concatenate([getattr(played.comparisons, name) for played in history])
            for name in ("first_C", "second_C", "prob_C")
        )
        rng = np.random.default_rng(seed)
        losses = []
        for _ in range(self.steps_per_round):
            drawn = rng.integers(len(prob_C), size=self.batch_pairs)
            numbers = np.concatenate([first_C[drawn], second_C[drawn]])
            scores = self._rewards([trajectories[number] for number in numbers]).sum(dim=1)
            first, second = scores.chunk(2)
            target = torch.as_tensor(prob_C[drawn], dtype=torch.float32, device=scores.device)
            loss = nn.functional.binary_cross_entropy_with_logits(first - second, target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return {"train/reward_model_loss": float(np.mean(losses))}

    @torch.no_grad()
    def rewards(self, newest: Round) -> Array:
        """See the base class."""
        return self._rewards(newest.trajectories).double().cpu().numpy()

    def _rewards(self, trajectories: Sequence[Trajectory]) -> Tensor:
        """[N, H] nats; 0 in the padding. Divided by H like SPO's, so that both learners see rewards of one size."""
        device, horizon = self.standardiser.mean.device, trajectories[0].horizon
        seen = torch.as_tensor(np.stack([each.observations_HD for each in trajectories]), device=device)
        done = torch.as_tensor(np.stack([each.actions_HA for each in trajectories]), device=device)
        inputs = torch.cat([self.standardiser(seen), done.clamp(-1, 1)], dim=-1)
        lengths = torch.tensor([each.length for each in trajectories], device=device)
        real_NH = torch.arange(horizon, device=device) < lengths[:, None]
        return self.net(inputs)[..., 0] * real_NH / horizon


class TrueReward(RewardSource):
    """The task's own rewards: what the learner could reach if it were told. For comparison only, it is no self-play.

    Divided by the standard deviation of all returns so far.
    """

    def build(self, task: Task, seed: int) -> None:
        """See the base class."""
        self.returns = Standardiser(1)

    def fit(self, history: Sequence[Round], seed: int) -> dict[str, float]:
        """See the base class."""
        returns = [[each.true_return] for each in history[-1].trajectories]
        self.returns.update(torch.tensor(returns, dtype=torch.float64, device=self.returns.mean.device))
        return {}

    def rewards(self, newest: Round) -> Array:
        """See the base class."""
        scale = float(self.returns.variance) ** 0.5 or 1.0
        return np.stack([each.rewards_H for each in newest.trajectories]) / scale
