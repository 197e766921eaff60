"""Episodes depend on policy and seed alone, and are whole."""

import numpy as np

from sppo_lightning.control.episodes import play_episodes, uniform_actor
from sppo_lightning.control.task import Task


def test_an_episode_depends_on_its_seed_alone(pole, pole_episodes, new_policy):
    fresh = Task("InvertedPendulum-v5", 40)  # as after a restart: environments that have played nothing
    for task in (fresh, pole):
        again = play_episodes(task, new_policy(task), list("abcdef"), range(6))
        assert [each.fingerprint for each in again] == [each.fingerprint for each in pole_episodes]
    # Sums over a batch of another size may differ in their last bits.
    second = play_episodes(fresh, new_policy(fresh), ["x"], [1])[0]
    np.testing.assert_allclose(second.actions_HA[0], pole_episodes[1].actions_HA[0], atol=1e-5)
    assert len({each.fingerprint for each in pole_episodes}) == 6


def test_what_comes_after_an_early_end_is_padding(pole_episodes):
    early = [each for each in pole_episodes if each.terminated]
    assert early, "the start policy holds no pole for 40 steps"
    for each in early:
        assert each.length < each.horizon == 40
        assert each.true_return == each.length - 1, "each step pays 1, the last one nothing"
        assert not each.actions_HA[each.length :].any()
        assert (each.observations_HD[each.length :] == each.observations_HD[-1]).all()
        assert not (each.observations_HD[each.length - 1] == each.observations_HD[-1]).all()


def test_other_noise_starts_in_the_same_state(pole, new_policy):
    first, second = (play_episodes(pole, new_policy(pole), ["x"], [0], noise=noise)[0] for noise in ("a", "b"))
    assert (first.observations_HD[0] == second.observations_HD[0]).all()
    assert (first.actions_HA[0] != second.actions_HA[0]).all()


def test_actions_are_spread_over_the_tasks_bounds():
    task = Task("Pendulum-v1", 10)
    np.testing.assert_allclose(task.to_task(np.array([[-1.0], [0.0], [0.5], [7.0]]))[:, 0], [-2, 0, 1, 2])
    drawn = uniform_actor(np.zeros((1000, 3)), np.zeros(1000), np.random.default_rng(0).standard_normal((1000, 1)))
    assert abs(drawn.mean()) < 0.07
    assert abs(drawn.std() - np.sqrt(1 / 3)) < 0.03
