import numpy as np
import pytest

from sppo_lightning.functional.elo import elo_ratings


def test_odds_of_ten_to_one_are_400_points():
    ratings = elo_ratings(np.array([[0.5, 1 / 11], [10 / 11, 0.5]]), num_prompts=10**9)
    assert ratings.tolist() == [1000, pytest.approx(1400)]


def test_a_clean_sweep_stays_finite():
    # 24 wins of 24 with half a win and half a loss more: odds 24.5 to 0.5.
    ratings = elo_ratings(np.array([[0.5, 0.0], [1.0, 0.5]]), num_prompts=24)
    assert ratings[1] == pytest.approx(1000 + 400 * np.log10(49))


def test_many_matrices_at_once_and_a_cycle_rates_all_alike():
    cycle = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
    ratings = elo_ratings(np.stack([cycle, np.full((3, 3), 0.5)]), num_prompts=50)
    np.testing.assert_allclose(ratings, 1000)
