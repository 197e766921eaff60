"""Other weights than uniform ones must prove themselves on prompts that they were not fitted on."""

import numpy as np
import pytest

from sppo_lightning.evaluation.best_of_n import OpponentSamples
from sppo_lightning.evaluation.mixture_weights import _payoff_gap, choose_mixture


def game(rates_RM, payoff_MM, num_prompts=24, noise=0.05, seed=0):
    """Replies that win against the members at known rates, and the members' known payoff, both with noise."""
    rng = np.random.default_rng(seed)
    rates_RM, payoff_MM = np.array(rates_RM), np.array(payoff_MM)
    R, M = rates_RM.shape
    probs = np.repeat(rates_RM[None], num_prompts, axis=0) + rng.normal(0, noise, (num_prompts, R, M))
    upper = np.triu(payoff_MM + rng.normal(0, noise, (num_prompts, M, M)), 1)
    win_rates = upper + np.tril(1 - np.swapaxes(upper, 1, 2), -1) + 0.5 * np.eye(M)
    against = OpponentSamples(
        probs_BKJ=np.repeat(probs, 2, axis=-1).clip(0, 1),
        weights_J=np.full(2 * M, 0.5 / M),
        half_J=np.tile([0, 1], M),
    )
    return [f"owner/m{i}" for i in range(M)], win_rates.clip(0, 1), against


def test_a_last_policy_that_is_really_better_gets_the_weight():
    # No reply beats the second member, many beat the first; the second beats the first.
    mixture = choose_mixture(*game([[0.9, 0.5], [0.8, 0.4]], [[0.5, 0.2], [0.8, 0.5]]))
    assert mixture.weighting == "payoff"
    assert mixture.members["owner/m1"] == pytest.approx(1)
    assert "on held-out prompts that they were not fitted on" in mixture.reason


def test_a_last_policy_that_beats_the_earlier_ones_but_is_open_does_not():
    # The second beats the first, but a reply that neither plays beats it; against both together no reply does well.
    mixture = choose_mixture(*game([[0.2, 0.9], [0.7, 0.3]], [[0.5, 0.3], [0.7, 0.5]]))
    assert mixture.weighting == "uniform"
    assert set(mixture.members.values()) == {0.5}
    assert "not confirmed" in mixture.reason


def test_noise_confirms_nothing():
    """Members that are all alike: other weights are chosen in at most a few of 60 runs."""
    chosen = [
        choose_mixture(*game(np.full((8, 3), 0.5), np.full((3, 3), 0.5), noise=0.2, seed=seed)).weighting
        for seed in range(60)
    ]
    assert chosen.count("payoff") <= 5


def test_too_little_to_choose_from():
    sources, win_rates, against = game([[0.9, 0.5]], [[0.5, 0.2], [0.8, 0.5]], num_prompts=3)
    assert "too few" in choose_mixture(sources, win_rates, against).reason
    sources, win_rates, against = game([[0.9]], [[0.5]])
    assert choose_mixture(sources, win_rates, against).members == {"owner/m0": 1.0}


def test_all_weight_on_the_newest_is_measured_with_as_many_responses():
    """Identical members: the change must be about 0, and it is far below where one member's few responses choose."""
    members, prompts, replies = 8, 400, 8
    changes = []
    for seed in range(4):
        noise = np.random.default_rng(seed)
        truth_BK = noise.uniform(0.3, 0.7, (prompts, replies))

        def judged(count, noise=noise, truth_BK=truth_BK):
            return (noise.random((*truth_BK.shape, count)) < truth_BK[..., None]).astype(float)

        few = OpponentSamples(
            probs_BKJ=judged(2 * members),
            weights_J=np.full(2 * members, 1 / (2 * members)),
            half_J=np.tile([0, 1], members),
        )
        many = OpponentSamples(probs_BKJ=judged(2 * members), weights_J=few.weights_J, half_J=np.tile([0, 1], members))
        uniform = _payoff_gap(few, None, np.full(members, 1 / members), np.arange(prompts))
        newest = np.eye(members)[-1]
        changes.append(
            [np.mean(_payoff_gap(few, given, newest, np.arange(prompts)) - uniform) for given in (None, many)]
        )
    few_mean, many_mean = np.mean(changes, axis=0)
    assert few_mean < -0.03
    assert abs(many_mean) < 0.015
