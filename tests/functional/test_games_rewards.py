"""A refitted reward model on a table: what a scalar reward can say about a game, and where its policy ends."""

import numpy as np
import pytest
from scipy.special import expit

from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.bradley_terry import bradley_terry_scores, bradley_terry_scores_of_pairs
from sppo_lightning.functional.games import duality_gap
from sppo_lightning.functional.tabular import SPPO, normalise, play
from sppo_lightning.functional.tabular_dpo import IterativeDPO
from sppo_lightning.functional.tabular_reward import IterativeRewardModel

NUM_SEEDS, NUM_ROUNDS = 5, 2000


def starts(num_responses):
    """[S, N] softmax of N(0, 1/4) logits."""
    draws = [np.random.default_rng(100 + seed).standard_normal(num_responses) for seed in range(NUM_SEEDS)]
    return normalise(0.5 * np.stack(draws))


def policies(method, game, num_rounds=NUM_ROUNDS):
    """[T + 1, S, N] probabilities."""
    games = np.broadcast_to(game, (NUM_SEEDS, *game.shape))
    logps = starts(len(game))
    return np.exp(play(method, games, logps, logps, num_rounds))


def test_pairs_weighted_by_one_policy_are_what_it_draws():
    game, weights = game_zoo.random(6, seed=0), np.random.default_rng(0).dirichlet(np.ones(6))
    scores = bradley_terry_scores_of_pairs(game, np.outer(weights, weights))
    expected = bradley_terry_scores(game, np.log(weights))
    np.testing.assert_allclose(scores, expected - expected.mean(), atol=1e-9)


def test_the_fit_of_weighted_pairs_has_no_gradient_left():
    game = game_zoo.random(6, seed=0)
    weights = np.random.default_rng(0).random((6, 6))
    weights = weights + weights.T
    scores = bradley_terry_scores_of_pairs(game, weights)
    assert scores.mean() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose((weights * (game - expit(scores[:, None] - scores[None, :]))).sum(axis=1), 0, atol=1e-10)


def test_the_first_round_is_iterative_dpo():
    game = game_zoo.random(6, seed=0)
    np.testing.assert_allclose(
        policies(IterativeRewardModel(0.5), game, 1), policies(IterativeDPO(beta=2.0), game, 1), atol=1e-10
    )


def test_rounds_remember_the_comparisons_of_the_earlier_ones():
    game = game_zoo.rps()
    first, second, third = policies(IterativeRewardModel(0.5), game, 2)[:, 0]
    rewards = bradley_terry_scores_of_pairs(game, np.outer(first, first) + np.outer(second, second))
    np.testing.assert_allclose(np.log(third), normalise(np.log(second) + 0.5 * rewards), atol=1e-10)


@pytest.mark.parametrize("eta", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("probs", [(0.9, 0.9, 0.9), (0.9, 0.7, 0.8)])
def test_on_rock_paper_scissors_it_goes_to_a_corner_and_the_average_of_sppo_does_not(probs, eta):
    game = game_zoo.rps(*probs)
    modelled, played = policies(IterativeRewardModel(eta), game), policies(SPPO(eta), game)
    assert (modelled[-1].max(axis=-1) > 0.999).all()
    assert (duality_gap(game, modelled[-1]) > 0.39).all(), "another response beats the corner at least 7 times in 10"
    assert (duality_gap(game, modelled[:-1].mean(axis=0)) > 0.25).all(), "nor is the average any good"
    assert (duality_gap(game, played[:-1].mean(axis=0)) < 0.03).all()
    assert (played[:-1].mean(axis=0).max(axis=-1) < 0.6).all()


def test_where_a_scalar_reward_can_say_everything_it_finds_the_best_response():
    game = game_zoo.bradley_terry(20, seed=0)
    assert (duality_gap(game, policies(IterativeRewardModel(0.2), game, 500)[-1]) < 1e-3).all()
