"""Preferences between trajectories, worked out by hand."""

import numpy as np
import pytest

from sppo_lightning.functional import trajectory_preferences as preferences
from sppo_lightning.functional.trajectory_preferences import Trajectory


def trajectory(rewards, angles=None, name="t", length=None):
    horizon = len(rewards)
    angles = np.zeros(horizon) if angles is None else np.asarray(angles)
    return Trajectory(
        name=name,
        observations_HD=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
        actions_HA=np.zeros((horizon, 1), np.float32),
        rewards_H=np.asarray(rewards, float),
        length=horizon if length is None else length,
        terminated=length is not None,
    )


def random_pairs(count):
    rng = np.random.default_rng(0)
    made = [trajectory(rng.integers(-2, 3, 8), rng.uniform(-3, 3, 8)) for _ in range(2 * count)]
    return list(zip(made[::2], made[1::2], strict=True))


PREFERENCES = {
    "maximum_reward": preferences.maximum_reward,
    "noisy": lambda first, second: preferences.noisy(first, second, flip=0.3),
    "non_markovian": lambda first, second: preferences.non_markovian(first, second, limit=0.5),
    "majority": lambda first, second: preferences.majority(
        *(preferences.time_in_sectors(each, 0, 1) for each in (first, second))
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_both_orders_add_up_to_one_and_every_verdict_occurs(name):
    prefer = PREFERENCES[name]
    verdicts = set()
    for first, second in random_pairs(200):
        assert prefer(first, second) + prefer(second, first) == 1
        verdicts.add(prefer(first, second))
    assert verdicts == {0.0, 0.5, 1.0}


def test_the_larger_return_wins():
    assert preferences.maximum_reward(trajectory([1, 2, 0]), trajectory([1, 1, 0])) == 1
    assert preferences.maximum_reward(trajectory([1, 1, 1]), trajectory([3, 0, 0])) == 0.5


def test_noise_turns_over_its_share_of_the_verdicts_and_stays_as_it_is():
    pairs = [(trajectory([n, 1]), trajectory([-n, 0.5])) for n in range(1, 2001)]
    wins = [preferences.noisy(*pair, flip=0.2) for pair in pairs]
    assert np.mean(wins) == pytest.approx(0.8, abs=0.03)  # 3.4 standard errors
    assert wins == [preferences.noisy(*pair, flip=0.2) for pair in pairs]
    assert wins != [preferences.noisy(*pair, flip=0.2, seed=1) for pair in pairs]


def test_non_markovian_wants_the_end_under_a_limit():
    good_then_bad, good_throughout = trajectory([5, 5, 5, 0]), trajectory([5, 5, 5, 5])
    assert preferences.non_markovian(good_then_bad, good_throughout, limit=1) == 1
    assert preferences.non_markovian(trajectory([5, 5, 4, 0]), good_then_bad, limit=1) == 0
    assert preferences.non_markovian(good_throughout, trajectory([0, 0, 0, 9]), limit=1) == 0.5


def test_three_sub_populations_go_round_in_a_circle():
    ways = [(3, 1, 2), (2, 3, 1), (1, 2, 3)]
    for first, second in zip(ways, ways[1:] + ways[:1], strict=True):
        assert preferences.majority(first, second) == 1


def test_time_in_sectors():
    third = 2 * np.pi / 3
    shares = preferences.time_in_sectors(trajectory(np.zeros(4), [0, 0.9, third, -third]), 0, 1)
    assert shares == (0.5, 0.25, 0.25)
    stopped = preferences.time_in_sectors(trajectory(np.zeros(4), [0, third, third, third], length=2), 0, 1)
    assert stopped == (0.25, 0.25, 0.0)
