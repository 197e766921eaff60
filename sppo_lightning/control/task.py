"""A gymnasium task with continuous actions, cut at a fixed horizon."""

from __future__ import annotations

import logging
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from sppo_lightning.errors import ConfigError

if TYPE_CHECKING:
    import gymnasium


def require_control() -> None:
    """Says what to install where the packages of this room are missing.

    Raises:
        ConfigError: gymnasium or stable-baselines3 is not there.
    """
    try:
        import gymnasium  # noqa: F401
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise ConfigError(f'control tasks need {error.name}: pip install "sppo-lightning[control]"') from error


class Task:
    """Environments of one task, and the sizes of what goes in and out.

    Args:
        name: gymnasium's id, such as Pendulum-v1.
        horizon: H, the steps of an episode.

    Attributes:
        observation_size: D.
        action_size: A.

    Raises:
        ConfigError: there is no such task, its simulator is not installed, or its observations or actions are not
            vectors of bounded size.
    """

    def __init__(self, name: str, horizon: int) -> None:
        require_control()
        from gymnasium.spaces import Box

        self.name, self.horizon = name, horizon
        self._environments: list[gymnasium.Env[Any, Any]] = [_make(name)]
        first = self._environments[0]
        space, actions = first.observation_space, first.action_space
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise ConfigError(f"data.task: {name} has observations {space}; only vectors (a Box of one axis) work")
        if not isinstance(actions, Box) or len(actions.shape) != 1:
            raise ConfigError(
                f"data.task: {name} has actions {actions}, which are not supported: only continuous ones (a Box of one "
                "axis), as of Pendulum-v1"
            )
        if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
            raise ConfigError(f"data.task: {name} has actions without bounds ({actions}), which are not supported")
        self.observation_size, self.action_size = space.shape[0], actions.shape[0]
        self._low, self._high = actions.low.astype(np.float64), actions.high.astype(np.float64)

    def environments(self, count: int) -> list[gymnasium.Env[Any, Any]]:
        """So many environments, the same ones at every call."""
        while len(self._environments) < count:
            self._environments.append(_make(self.name))
        return self._environments[:count]

    def to_task(self, actions_NA: np.ndarray) -> np.ndarray:
        """Actions from units in which the bounds are -1 and 1 to the task's own, clipped to its bounds."""
        share = (np.clip(actions_NA, -1, 1) + 1) / 2
        return (self._low + share * (self._high - self._low)).astype(np.float32)


def _make(name: str) -> gymnasium.Env[Any, Any]:
    import gymnasium

    logging.getLogger("gymnasium").setLevel(logging.ERROR)  # that a newer version of a task exists is no news
    try:
        # The horizon is ours; without the checker, which warns of what the tasks themselves do.
        return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f'data.task: {name} needs a simulator that is not installed: {reason}; pip install "sppo-lightning'
            '[control]"'
        ) from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        close = get_close_matches(name, gymnasium.registry, n=1)
        hint = f"did you mean {close[0]}?" if close else "Pendulum-v1 and Reacher-v5 are among those there are."
        raise ConfigError(f"data.task: gymnasium has no task {name!r}; {hint}") from error
