"""Diagnostics of a preference matrix, on games whose answer can be counted by hand or by brute force."""

from itertools import combinations

import numpy as np
import pytest

from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.game_diagnostics import (
    borda_scores,
    condorcet_winner,
    copeland_winners,
    curl_share,
    entropy,
    num_cyclic_triads,
)
from sppo_lightning.functional.games import check_game, von_neumann_winner


def is_cycle(probs, triple):
    i, j, k = triple
    wins = [probs[i, j] > 0.5, probs[j, k] > 0.5, probs[k, i] > 0.5]
    losses = [probs[i, j] < 0.5, probs[j, k] < 0.5, probs[k, i] < 0.5]
    return all(wins) or all(losses)


@pytest.mark.parametrize("seed", range(3))
def test_cyclic_triads_are_counted(seed):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.integers(0, 5, (9, 9)) / 4, 1)  # ties among them
    probs = check_game(upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(9))
    assert num_cyclic_triads(probs) == sum(is_cycle(probs, triple) for triple in combinations(range(9), 3))


def test_transitive_and_cyclic_games_are_told_apart():
    assert num_cyclic_triads(game_zoo.rps()) == 1
    assert num_cyclic_triads(game_zoo.bradley_terry(20, seed=0)) == 0


def test_curl_share_is_one_for_even_rock_paper_scissors_and_zero_for_scores():
    assert curl_share(game_zoo.rps(0.9, 0.9, 0.9)) == pytest.approx(1)
    assert curl_share(game_zoo.bradley_terry(6, seed=0, scale=0.5)) == pytest.approx(0, abs=1e-12)
    assert curl_share(np.full((3, 3), 0.5)) == 0


def test_curl_share_is_the_residual_of_least_squares():
    probs = game_zoo.random(6, seed=1)
    pairs = list(combinations(range(6), 2))
    log_odds = np.array([np.log(probs[i, j] / probs[j, i]) for i, j in pairs])
    design = np.array([np.eye(6)[i] - np.eye(6)[j] for i, j in pairs])
    scores = np.linalg.lstsq(design, log_odds, rcond=None)[0]
    expected = ((log_odds - design @ scores) ** 2).sum() / (log_odds**2).sum()
    assert curl_share(probs, clip=1e-9) == pytest.approx(expected, abs=1e-12)


def test_a_certain_preference_has_a_finite_curl():
    assert curl_share(game_zoo.rps(1.0, 1.0, 0.9)) < 1


def test_condorcet_and_copeland_winners():
    assert condorcet_winner(game_zoo.rps()) is None
    assert copeland_winners(game_zoo.rps()) == (0, 1, 2)
    assert condorcet_winner(game_zoo.condorcet(20, seed=5)) == 0
    assert copeland_winners(game_zoo.condorcet(20, seed=5)) == (0,)
    # A tie is no win: response 0 beats 2 and ties with 1, which ties with 2.
    tied = check_game([[0.5, 0.5, 0.9], [0.5, 0.5, 0.5], [0.1, 0.5, 0.5]])
    assert condorcet_winner(tied) is None
    assert copeland_winners(tied) == (0,)


def test_copeland_counts_losses_as_well_as_wins():
    # Response 0 has two wins and two losses, 1 and 4 have one win and otherwise ties.
    probs = np.full((5, 5), 0.5)
    for winner, loser in [(0, 2), (0, 3), (1, 0), (4, 0)]:
        probs[winner, loser], probs[loser, winner] = 0.9, 0.1
    assert copeland_winners(probs) == (1, 4)


def test_borda_scores_leave_the_diagonal_out():
    np.testing.assert_allclose(borda_scores(game_zoo.rps(0.9, 0.7, 0.8)), [0.55, 0.4, 0.55])


def test_nash_entropy():
    assert entropy(von_neumann_winner(game_zoo.rps(0.9, 0.9, 0.9)).policy_N) == pytest.approx(np.log(3))
    assert entropy(von_neumann_winner(game_zoo.condorcet(5, seed=0)).policy_N) == pytest.approx(0, abs=1e-12)
