"""Plays whole episodes: one for each seed, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.control.task import Task
from sppo_lightning.errors import EngineError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.functional.trajectory_preferences import Trajectory

Actor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Observations [N, D], steps [N] and normal noise [N, A] to actions [N, A] in units of the bounds."""


def play_episodes(
    task: Task, actor: ControlPolicy | Actor, names: Sequence[str], seeds: Sequence[int], noise: str = ""
) -> list[Trajectory]:
    """Plays episodes to their end or the horizon.

    An episode depends on the policy and its own seed alone, but for rounding: its start and its noise come from that
    seed. The same seeds in the same order give the same bits.

    Args:
        task: where.
        actor: who.
        names: of the trajectories.
        seeds: one an episode; the same seed is the same start state.
        noise: other noise from the same start state for each word.

    Raises:
        EngineError: the simulator or the policy produced numbers that are not finite.
    """
    act = actor.act if isinstance(actor, ControlPolicy) else actor
    N, H, D, A = len(seeds), task.horizon, task.observation_size, task.action_size
    environments = task.environments(N)
    noise_NHA = np.stack(
        [np.random.default_rng(derive_seed(seed, "noise", noise)).standard_normal((H, A)) for seed in seeds]
    )
    observations_NHD, actions_NHA = np.zeros((N, H, D), np.float32), np.zeros((N, H, A), np.float32)
    rewards_NH, lengths_N, terminated_N = np.zeros((N, H)), np.full(N, H), np.zeros(N, bool)
    seen_ND = np.stack(
        [environment.reset(seed=start_seed(seed))[0] for environment, seed in zip(environments, seeds, strict=True)]
    ).astype(np.float32)
    for step in range(H):
        observations_NHD[:, step] = seen_ND
        playing = np.flatnonzero(~terminated_N)
        if len(playing) == 0:
            observations_NHD[:, step:] = seen_ND[:, None]
            break
        drawn_NA = act(seen_ND, np.full(N, step), noise_NHA[:, step])
        done_NA = task.to_task(drawn_NA)
        for n in playing:
            seen, reward, ended, _, _ = environments[n].step(done_NA[n])
            seen_ND[n], rewards_NH[n, step], actions_NHA[n, step] = seen, reward, drawn_NA[n]
            if ended:
                terminated_N[n], lengths_N[n] = True, step + 1
    for part, what in ((observations_NHD, "observations"), (actions_NHA, "actions"), (rewards_NH, "rewards")):
        bad = np.flatnonzero(~np.isfinite(part).all(axis=tuple(range(1, part.ndim))))
        if len(bad):
            raise EngineError(
                f"data.task: {task.name} went to {what} that are not finite in {names[bad[0]]}; lower "
                "model.learning_rate, or look at the task's rewards"
            )
    return [
        Trajectory(
            name=names[n],
            observations_HD=observations_NHD[n],
            actions_HA=actions_NHA[n],
            rewards_H=rewards_NH[n],
            length=int(lengths_N[n]),
            terminated=bool(terminated_N[n]),
        )
        for n in range(N)
    ]


def start_seed(seed: int) -> int:
    """What a simulator is reset with for an episode of this seed."""
    return derive_seed(seed, "start") % 2**31


def uniform_actor(observations_ND: np.ndarray, steps_N: np.ndarray, noise_NA: np.ndarray) -> np.ndarray:
    """The random policy: actions spread evenly over their bounds."""
    from scipy.special import ndtr

    return 2 * ndtr(noise_NA) - 1
