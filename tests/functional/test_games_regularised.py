"""The regularised game: closed forms against maximisation by brute force, and its equilibrium against its equation."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.games import duality_gap, von_neumann_winner
from sppo_lightning.functional.regularised_games import (
    n_player_gap,
    regularised_best_reply,
    regularised_equilibrium,
    regularised_gap,
    regularised_value,
)


@pytest.fixture
def case():
    rng = np.random.default_rng(4)
    return game_zoo.random(5, seed=4), rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))


def test_value_is_one_half_between_equals(case):
    probs, policy, reference = case
    assert regularised_value(probs, policy, policy, 0.1, reference) == pytest.approx(0.5, abs=1e-12)


def test_value_of_both_sides_adds_up_to_one(case):
    probs, policy, reference = case
    other = softmax(np.arange(5.0))
    total = regularised_value(probs, policy, other, 0.1, reference) + regularised_value(
        probs, other, policy, 0.1, reference
    )
    assert total == pytest.approx(1, abs=1e-12)


def test_best_reply_beats_every_other_reply(case):
    probs, policy, reference = case
    reply = regularised_best_reply(probs, policy, 0.1, reference)
    best = regularised_value(probs, reply, policy, 0.1, reference)
    others = np.random.default_rng(0).dirichlet(np.ones(5), size=500)
    values = regularised_value(probs, others, policy, 0.1, reference)
    near = 0.999 * reply + 0.001 * others
    assert values.max() < best
    assert regularised_value(probs, near, policy, 0.1, reference).max() < best


def test_closed_form_gap_is_what_both_best_replies_gain(case):
    probs, policy, reference = case
    reply = regularised_best_reply(probs, policy, 0.1, reference)
    by_definition = regularised_value(probs, reply, policy, 0.1, reference) - regularised_value(
        probs, policy, reply, 0.1, reference
    )
    assert regularised_gap(probs, policy, 0.1, reference) == pytest.approx(by_definition, abs=1e-12)


def test_gap_tends_to_the_duality_gap_as_tau_vanishes(case):
    probs, policy, reference = case
    # They differ by at most tau times the KLs involved, below 2 tau log(1 / min r).
    assert regularised_gap(probs, policy, 1e-7, reference) == pytest.approx(duality_gap(probs, policy), abs=1e-6)


@pytest.mark.parametrize("num_players", [2, 3, 5])
def test_symmetric_n_player_gap_is_half_the_two_player_gap(case, num_players):
    probs, policy, reference = case
    opponents = np.repeat(policy[None], num_players - 1, axis=0)
    gap = n_player_gap(probs, policy, opponents, 0.1, reference)
    assert gap == pytest.approx(regularised_gap(probs, policy, 0.1, reference) / 2, abs=1e-12)
    assert gap > 0.01


def test_n_player_gap_is_what_the_best_deviation_gains(case):
    probs, policy, reference = case
    opponents = np.random.default_rng(1).dirichlet(np.ones(5), size=3)
    mixture = opponents.mean(axis=0)

    def payoff(row):
        # J_tau against the mixture without the opponent's own KL, which a deviation cannot change.
        return regularised_value(probs, row, mixture, 0.1, reference) - regularised_value(
            probs, mixture, mixture, 0.1, reference
        )

    gain = payoff(regularised_best_reply(probs, mixture, 0.1, reference)) - payoff(policy)
    assert n_player_gap(probs, policy, opponents, 0.1, reference) == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.02, 0.001])
def test_equilibrium_solves_its_equation(tau):
    probs = game_zoo.random(20, seed=0)
    reference = softmax(0.5 * np.random.default_rng(0).standard_normal(20))
    logps = regularised_equilibrium(probs, tau, reference)
    np.testing.assert_allclose(logps, log_softmax(np.log(reference) + probs @ np.exp(logps) / tau), atol=1e-9)
    assert abs(regularised_gap(probs, np.exp(logps), tau, reference)) < 1e-12


def test_equilibrium_tends_to_the_reference_for_large_and_to_the_winner_for_small_tau():
    probs = game_zoo.rps(0.9, 0.7, 0.8)
    reference = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(np.exp(regularised_equilibrium(probs, 1e4, reference)), reference, atol=1e-4)
    winner = von_neumann_winner(probs).policy_N
    np.testing.assert_allclose(np.exp(regularised_equilibrium(probs, 1e-5, reference)), winner, atol=1e-3)


def test_a_tau_beyond_float64_is_refused():
    with pytest.raises(ConfigError, match="use a larger tau"):
        regularised_equilibrium(game_zoo.random(20, seed=0), 1e-9, np.full(20, 0.05))
