import numpy as np
import pytest
from scipy.special import expit

from sppo_lightning.functional.length_control import length_controlled_win_rates


def comparisons(theta, slope, seed=0, size=4000, mean_ratio=0.7):
    """A pair whose row is better by theta nats at equal length, and longer, before a judge who likes length."""
    rng = np.random.default_rng(seed)
    ratios = rng.normal(mean_ratio, 0.5, size)
    verdicts = rng.random(size) < expit(theta + slope * ratios)
    return verdicts.astype(float), ratios


def test_what_length_won_is_taken_out():
    verdicts, ratios = comparisons(theta=-0.4, slope=2.0)
    rates, slope = length_controlled_win_rates(verdicts, ratios, np.zeros(4000, int), np.ones(4000), 1)
    assert verdicts.mean() > 0.6
    assert rates[0] == pytest.approx(expit(-0.4), abs=0.03)
    assert slope == pytest.approx(2.0, abs=0.15)


def test_pairs_share_the_judge_s_slope():
    first, ratios = comparisons(theta=0.5, slope=1.0)
    second, others = comparisons(theta=-1.0, slope=1.0, seed=1, mean_ratio=-0.3)
    rates, slope = length_controlled_win_rates(
        np.concatenate([first, second]),
        np.concatenate([ratios, others]),
        np.repeat([0, 1], 4000),
        np.ones(8000),
        2,
    )
    assert rates == pytest.approx(expit([0.5, -1.0]), abs=0.03)
    assert slope == pytest.approx(1.0, abs=0.12)


def test_equal_lengths_leave_win_rates_as_they_are():
    probs = np.full(200, 0.7)
    rates, slope = length_controlled_win_rates(probs, np.zeros(200), np.zeros(200, int), np.ones(200), 1)
    assert rates[0] == pytest.approx(0.7, abs=0.001)
    assert slope == pytest.approx(0, abs=1e-6)


def test_a_clean_sweep_stays_finite_and_both_directions_agree():
    ratios = np.random.default_rng(0).normal(size=24)
    forth, slope = length_controlled_win_rates(np.ones(24), ratios, np.zeros(24, int), np.ones(24), 1)
    back, same = length_controlled_win_rates(np.zeros(24), -ratios, np.zeros(24, int), np.ones(24), 1)
    assert 0.9 < forth[0] < 1
    assert back[0] == pytest.approx(1 - forth[0], abs=1e-5)
    assert same == pytest.approx(slope, abs=1e-4)
