"""The policy of a control task: stable-baselines3's actor and critic, and the statistics that its inputs are scaled by.

N is a number of steps or episodes; other shape letters as in `functional.trajectory_preferences`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sppo_lightning.control.task import Task
from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.files import atomic_folder, read_json

_CLIP = 10.0  # as stable-baselines3's VecNormalize
_LEAST_VARIANCE = 1e-8


class Standardiser(nn.Module):
    """Brings each number of an observation to mean 0 and variance 1 over all steps seen so far.

    Buffers, so that checkpoints and exports carry them. Until the first `update` it changes nothing.

    Args:
        size: D.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, values_ND: Tensor) -> Tensor:
        """[N, D] float32."""
        scaled = (values_ND.double() - self.mean) / torch.sqrt(self.variance + _LEAST_VARIANCE)
        return scaled.clamp(-_CLIP, _CLIP).float()

    def update(self, values_ND: Tensor) -> None:
        """Adds steps (Chan, Golub and LeVeque 1979)."""
        values_ND = values_ND.double()
        count, mean, variance = len(values_ND), values_ND.mean(dim=0), values_ND.var(dim=0, correction=0)
        total, shift = self.count + count, mean - self.mean
        squares = self.variance * self.count + variance * count + shift**2 * self.count * count / total
        self.mean, self.variance, self.count = self.mean + shift * count / total, squares / total, total


class ControlPolicy(nn.Module):
    """A Gaussian policy and its value function, both of which see the time that is left.

    With a fixed horizon the value of a state depends on the step, and a preference may ask for other things early than
    late.

    Args:
        task: says what goes in and out.
        hidden_sizes: widths of the hidden layers of the actor and of the critic.
        initial_log_std: log of the actions' standard deviation before training, in units of the bounds.
        seed: of the weights.
    """

    def __init__(self, task: Task, hidden_sizes: Sequence[int], initial_log_std: float, seed: int) -> None:
        super().__init__()
        from gymnasium.spaces import Box
        from stable_baselines3.common.policies import ActorCriticPolicy

        self.task = task
        self.shape = {"hidden_sizes": list(hidden_sizes), "initial_log_std": initial_log_std}
        self.observation_space = Box(-np.inf, np.inf, (task.observation_size + 1,), np.float32)
        self.action_space = Box(-1.0, 1.0, (task.action_size,), np.float32)
        self.standardiser = Standardiser(task.observation_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = ActorCriticPolicy(
                self.observation_space,
                self.action_space,
                lr_schedule=lambda _: 0.0,  # the learner makes its own optimiser
                net_arch=list(hidden_sizes),
                activation_fn=nn.Tanh,
                log_std_init=initial_log_std,
            )

    def inputs(self, observations_ND: np.ndarray, steps_N: np.ndarray) -> Tensor:
        """[N, D + 1] what the networks see: the standardised observation, and the time from -1 to 1."""
        device = self.standardiser.mean.device
        scaled_ND = self.standardiser(torch.as_tensor(observations_ND, device=device))
        time_N = torch.as_tensor(2 * steps_N / self.task.horizon - 1, dtype=torch.float32, device=device)
        return torch.cat([scaled_ND, time_N[:, None]], dim=1)

    @torch.no_grad()
    def act(self, observations_ND: np.ndarray, steps_N: np.ndarray, noise_NA: np.ndarray) -> np.ndarray:
        """[N, A] actions in units of the bounds, not clipped.

        Args:
            observations_ND: what is seen.
            steps_N: steps since the episodes began.
            noise_NA: standard normal numbers; zeros give the mean action.
        """
        normal = self.net.get_distribution(self.inputs(observations_ND, steps_N)).distribution
        assert isinstance(normal, torch.distributions.Normal)
        mean_NA, std_NA = normal.mean.cpu().numpy(), normal.stddev.cpu().numpy()
        return (mean_NA + std_NA * noise_NA).astype(np.float32)

    # --- on disk -----------------------------------------------------------------------------------------------------

    def export(self, folder: Path) -> None:
        """Writes the policy as safetensors with a description, complete or not at all."""
        about = {"task": self.task.name, "horizon": self.task.horizon, **self.shape}
        with atomic_folder(folder, kind="export") as temporary:
            save_file({key: value.contiguous() for key, value in self.state_dict().items()}, temporary / WEIGHTS)
            (temporary / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, task: Task | None = None) -> ControlPolicy:
        """Reads an export.

        Args:
            folder: such as runs/NAME/exports/round_003.
            task: the task that is open already; None opens the policy's.

        Raises:
            RunFolderError: a file is missing or damaged.
        """
        about: dict[str, Any] = read_json(folder / ABOUT)
        task = task or Task(about["task"], about["horizon"])
        policy = cls(task, about["hidden_sizes"], about["initial_log_std"], seed=0)
        try:
            policy.load_state_dict(load_file(folder / WEIGHTS))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise RunFolderError(f"{folder / WEIGHTS}: is missing or damaged ({error}); restore the folder") from error
        return policy.eval()


WEIGHTS = "policy.safetensors"
ABOUT = "policy.json"
