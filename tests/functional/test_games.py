"""Equilibria and gaps, against known answers, definitions by brute force, and an independent test of uniqueness."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sppo_lightning.errors import DataError
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.games import (
    check_game,
    duality_gap,
    kl_divergence,
    two_policy_gap,
    von_neumann_winner,
    win_rates,
)


def tied_game(rng, n):
    """Preferences of 0, 1/2 and 1 only: many of these games have many equilibria."""
    upper = np.triu(rng.integers(0, 3, (n, n)) / 2, 1)
    return check_game(upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(n))


def equilibrium_width(probs_NN):
    """The largest distance between two equilibria in any coordinate: two linear programs a response."""
    N = len(probs_NN)
    width = 0.0
    for i in range(N):
        ends = []
        for sign in (1, -1):
            c = np.zeros(N)
            c[i] = sign
            end = linprog(c, A_ub=-(probs_NN - 0.5).T, b_ub=np.zeros(N), A_eq=np.ones((1, N)), b_eq=[1.0])
            assert end.success
            ends.append(end.x[i])
        width = max(width, ends[1] - ends[0])
    return width


def test_rock_paper_scissors_has_the_known_winner():
    winner = von_neumann_winner(game_zoo.rps(0.9, 0.7, 0.8))
    # In proportion to (b - 1/2, c - 1/2, a - 1/2).
    np.testing.assert_allclose(winner.policy_N, [2 / 9, 3 / 9, 4 / 9], atol=1e-12)
    assert winner.unique


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("family", ["random", "bradley_terry", "condorcet"])
def test_value_and_gap_of_the_winner(family, seed):
    probs = getattr(game_zoo, family)(20, seed)
    winner = von_neumann_winner(probs)
    assert abs(winner.value - 0.5) < 1e-8
    assert duality_gap(probs, winner.policy_N) < 1e-7
    assert winner.policy_N.sum() == pytest.approx(1, abs=1e-12)


def test_a_condorcet_winner_is_the_unique_winner():
    winner = von_neumann_winner(game_zoo.condorcet(20, seed=3))
    np.testing.assert_allclose(winner.policy_N, np.eye(20)[0], atol=1e-12)
    assert winner.unique


def test_one_response_alone_is_the_unique_winner():
    winner = von_neumann_winner(np.array([[0.5]]))
    assert winner.policy_N.tolist() == [1.0]
    assert winner.unique


def test_uniqueness_agrees_with_the_width_of_the_set_of_equilibria():
    rng = np.random.default_rng(0)
    verdicts = []
    for k in range(60):
        n = int(rng.integers(2, 8))
        probs = tied_game(rng, n) if k % 2 else game_zoo.random(n, seed=k)
        unique = von_neumann_winner(probs).unique
        assert unique == (equilibrium_width(probs) < 1e-7)
        verdicts.append(unique)
    assert 15 < sum(verdicts) < 55  # both answers were asked for


def test_a_duplicated_response_of_the_winner_makes_it_not_unique():
    probs = game_zoo.rps(0.9, 0.7, 0.8)
    with_copy = probs[np.ix_([0, 1, 2, 2], [0, 1, 2, 2])]
    assert not von_neumann_winner(with_copy).unique


def test_a_duplicated_loser_leaves_the_winner_unique():
    probs = check_game([[0.5, 0.9, 0.9], [0.1, 0.5, 0.5], [0.1, 0.5, 0.5]])
    assert von_neumann_winner(probs).unique


def test_no_preference_at_all_is_not_unique():
    assert not von_neumann_winner(np.full((4, 4), 0.5)).unique


@pytest.mark.parametrize(("excess", "unique"), [(1e-8, False), (1e-4, True)])
def test_a_preference_within_rounding_of_one_half_counts_as_a_tie(excess, unique):
    winner = von_neumann_winner(check_game([[0.5, 0.5 + excess], [0.5 - excess, 0.5]]))
    assert winner.unique == unique
    assert winner.policy_N[0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("noise", [1e-4, 1e-6, 1e-8, 1e-10])
def test_nearly_tied_games_are_solved(noise):
    rng = np.random.default_rng(1)
    for _ in range(30):
        probs = tied_game(rng, int(rng.integers(2, 12)))
        shift = np.triu(rng.normal(0, noise, probs.shape), 1)
        probs = check_game(np.clip(probs + shift - shift.T, 0, 1))
        assert abs(von_neumann_winner(probs).value - 0.5) < 2e-6


@st.composite
def games_and_policies(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n = draw(st.integers(1, 6))
    return game_zoo.random(n, seed), rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n))


@settings(max_examples=50, deadline=None)
@given(games_and_policies())
def test_gaps_are_the_best_replies_of_both_sides(case):
    probs, first, second = case
    best_row = max(row @ second for row in probs)
    worst_column = min(first @ column for column in probs.T)
    assert two_policy_gap(probs, first, second) == pytest.approx(best_row - worst_column, abs=1e-12)
    assert duality_gap(probs, first) == pytest.approx(two_policy_gap(probs, first, first), abs=1e-12)
    assert duality_gap(probs, first) >= -1e-15
    # A policy against itself wins half of the time.
    assert first @ win_rates(probs, first) == pytest.approx(0.5, abs=1e-12)


def test_gaps_broadcast_over_games_and_rounds():
    games = np.stack([game_zoo.random(4, seed) for seed in range(3)])
    policies = np.random.default_rng(0).dirichlet(np.ones(4), size=(7, 3))
    gaps = duality_gap(games, policies)
    assert gaps.shape == (7, 3)
    assert gaps[5, 2] == pytest.approx(duality_gap(games[2], policies[5, 2]))


def test_corner_gaps_of_rock_paper_scissors():
    # Each corner loses to one response, with 0.8, 0.9 and 0.7: twice the excess over 1/2.
    gaps = duality_gap(game_zoo.rps(0.9, 0.7, 0.8), np.eye(3))
    np.testing.assert_allclose(gaps, [0.6, 0.8, 0.4], atol=1e-12)


def test_kl_divergence_of_known_policies():
    # 1 log(1 / (1/4)) with a zero that must not become NaN.
    assert kl_divergence(np.array([1.0, 0.0]), np.log([0.25, 0.75])) == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        ([[0.5, 0.6]], r"shape \[N, N\]"),
        ([0.5, 0.5], r"shape \[N, N\]"),
        (np.zeros((0, 0)), r"shape \[N, N\]"),
        ([[0.5, 0.6], [0.4]], "rectangular"),
        ([["x", 0.5], [0.5, 0.5]], "rectangular"),
        ([[0.5, np.nan], [0.4, 0.5]], r"P\[0, 1\] = nan must be a finite"),
        ([[0.5, 1.2], [-0.2, 0.5]], r"P\[0, 1\] = 1.2 must lie in \[0, 1\]"),
        ([[0.5, 0.6], [0.5, 0.5]], r"P\[0, 1\] = 0.6 and P\[j, i\] must add up to 1"),
        ([[0.7, 0.6], [0.4, 0.5]], r"P\[0, 0\] = 0.7 and P\[j, i\] must add up to 1"),
        ([[[0.5]], [[0.4]]], r"P\[1, 0, 0\] = 0.4"),
    ],
)
def test_what_is_no_game_is_refused_with_its_place(probs, message):
    with pytest.raises(DataError, match=message):
        check_game(probs)


def test_rounding_is_removed_from_a_game():
    probs = check_game(np.array([[0.5, 0.3], [0.70005, 0.5]]))
    assert (probs + probs.T == 1).all()
    assert probs[0, 1] == pytest.approx(0.299975)
