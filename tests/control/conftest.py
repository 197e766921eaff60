"""Small rounds on real tasks, shared by the tests of this room."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason='needs the extra: pip install "sppo-lightning[control]"')

from sppo_lightning.control.episodes import play_episodes
from sppo_lightning.control.labeller import compare_with_queue
from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.control.preferences import MaximumReward
from sppo_lightning.control.rounds import Round
from sppo_lightning.control.task import Task


@pytest.fixture(scope="session")
def pole() -> Task:
    """A MuJoCo task whose episodes end early."""
    return Task("InvertedPendulum-v5", 40)


@pytest.fixture
def new_policy():
    """new_policy(task) -> the same small policy each time."""
    return lambda task: ControlPolicy(task, [8], 0.0, seed=1)


@pytest.fixture(scope="session")
def pole_episodes(pole):
    """Six episodes of the start policy."""
    return play_episodes(pole, ControlPolicy(pole, [8], 0.0, seed=1), [f"round_000/{n}" for n in range(6)], range(6))


@pytest.fixture
def judged():
    """judged(trajectories, preference) -> round 0."""

    def judged(trajectories, preference=None):
        comparisons = compare_with_queue(trajectories, [], 0, preference or MaximumReward())
        return Round(index=0, trajectories=trajectories, comparisons=comparisons)

    return judged


@pytest.fixture
def with_rewards():
    """with_rewards(trajectories, change) -> the same episodes with other true rewards."""

    def with_rewards(trajectories, change):
        return [dataclasses.replace(each, rewards_H=np.asarray(change(each.rewards_H))) for each in trajectories]

    return with_rewards
