"""What the learner is told, and what it never sees."""

import copy

import numpy as np
import torch

from sppo_lightning.control.learner import Learner
from sppo_lightning.control.preferences import MaximumReward, Preference
from sppo_lightning.control.rewards import LearnedReward, QueueWinRate, TrueReward
from sppo_lightning.functional.trajectory_preferences import larger

SETTINGS = {"learning_rate": 1e-2, "batch_size": 16, "n_epochs": 2, "gamma": 1.0, "gae_lambda": 0.95}


class Upright(Preference):
    """Judges what was seen; true rewards are not read."""

    def __call__(self, first, second):
        return larger(*(-np.abs(each.observations_HD[:, 1]).sum() for each in (first, second)))


def weights_after(policy, source, played):
    """One round: the policy's weights after it, as one vector."""
    policy = copy.deepcopy(policy)
    source.build(policy.task, 0)
    source.fit([played], seed=1)
    Learner(policy, **SETTINGS).update(played.trajectories, source.rewards(played), seed=2)
    return torch.cat([parameter.detach().flatten() for parameter in policy.net.parameters()])


def test_true_rewards_reach_the_learner_through_the_preference_alone(
    pole, pole_episodes, new_policy, judged, with_rewards
):
    policy = new_policy(pole)
    scrambled = with_rewards(pole_episodes, np.random.default_rng(0).permutation)
    tripled = with_rewards(pole_episodes, lambda rewards: 3 * rewards)
    for make in (QueueWinRate, LearnedReward):
        expected = weights_after(policy, make(), judged(pole_episodes, Upright()))
        assert torch.equal(weights_after(policy, make(), judged(scrambled, Upright())), expected)
        # Returns three times as large, and so the same verdicts.
        expected = weights_after(policy, make(), judged(pole_episodes, MaximumReward()))
        assert torch.equal(weights_after(policy, make(), judged(tripled, MaximumReward())), expected)
    # The learner does look at what it is given.
    assert not torch.equal(
        weights_after(policy, QueueWinRate(), judged(pole_episodes, Upright())),
        weights_after(policy, QueueWinRate(), judged(with_rewards(pole_episodes, np.negative), MaximumReward())),
    )


def test_an_update_raises_the_probability_of_what_won(pole, pole_episodes, new_policy, judged):
    policy = new_policy(pole)
    played = judged(pole_episodes)
    returns = np.array([each.true_return for each in pole_episodes])

    def logps():
        found = []
        for each in pole_episodes:
            inputs = policy.inputs(each.observations_HD[: each.length], np.arange(each.length))
            actions = torch.from_numpy(each.actions_HA[: each.length])
            found.append(policy.net.evaluate_actions(inputs, actions)[1].mean().item())
        return np.array(found)

    # Its inputs are scaled by what it has seen; the update itself must not be mistaken for that.
    before, scale = logps(), copy.deepcopy(policy.standardiser.state_dict())
    Learner(policy, **SETTINGS).update(played.trajectories, QueueWinRate().rewards(played), seed=0)
    policy.standardiser.load_state_dict(scale)
    change = logps() - before
    assert change[returns.argmax()] > change[returns.argmin()]


def test_what_would_be_paid_in_the_padding_is_paid_at_the_end(pole, pole_episodes, new_policy, judged):
    """So that losing early costs the whole label, and the sum over an episode does not depend on its length."""
    learner = Learner(new_policy(pole), **SETTINGS)
    played = judged(pole_episodes)
    rewards_NH = QueueWinRate().rewards(played)
    learner.update(pole_episodes, rewards_NH, seed=0)
    buffer = learner._ppo.rollout_buffer
    ends = np.cumsum([each.length for each in pole_episodes])
    sums = np.add.reduceat(buffer.rewards.flatten(), [0, *ends[:-1]])
    np.testing.assert_allclose(sums, rewards_NH.sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(buffer.rewards.flatten()[0], rewards_NH[0, 0], atol=1e-7)


def test_a_reward_model_learns_what_a_markovian_reward_can_say(pole, pole_episodes, judged):
    source = LearnedReward(steps_per_round=300, batch_pairs=15)
    source.build(pole, seed=0)
    played = judged(pole_episodes)
    first = source.fit([played], seed=0)["train/reward_model_loss"]
    last = source.fit([played], seed=1)["train/reward_model_loss"]
    assert last < first < np.log(2)
    scores, returns = source.rewards(played).sum(axis=1), [each.true_return for each in pole_episodes]
    assert scores[np.argmax(returns)] > scores[np.argmin(returns)]


def test_true_rewards_are_scaled_to_returns_of_deviation_one(pole, pole_episodes, judged):
    source = TrueReward()
    source.build(pole, seed=0)
    played = judged(pole_episodes)
    source.fit([played], seed=0)
    np.testing.assert_allclose(source.rewards(played).sum(axis=1).std(), 1, atol=1e-6)
