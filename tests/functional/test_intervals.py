import math

import numpy as np
import pytest
from scipy import stats

from sppo_lightning.functional.intervals import Interval, bootstrap_interval, mean_interval, win_rate_interval

NUM_SIMULATIONS = 500


def test_prints_like_a_table_cell():
    assert str(Interval(estimate=0.7312, low=0.69, high=0.772)) == "0.731 [0.690, 0.772]"


def test_mean_interval_by_hand():
    # mean 2.5, s = 1.29099, n = 4, t(3, 0.975) = 3.18245: 2.5 -+ 3.18245 * 1.29099 / 2
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert interval.estimate == 2.5
    assert interval.low == pytest.approx(0.4457, abs=1e-4)
    assert interval.high == pytest.approx(4.5543, abs=1e-4)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_mean_interval_agrees_with_scipy(confidence):
    values = np.random.default_rng(0).normal(size=17)
    interval = mean_interval(values, confidence)
    low, high = stats.t.interval(confidence, 16, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.confidence == confidence


def test_one_value_bounds_nothing():
    interval = mean_interval([0.7])
    assert (interval.estimate, interval.low, interval.high) == (0.7, -math.inf, math.inf)
    assert str(win_rate_interval([[0.7]])) == "0.700 [0.000, 1.000]"


def test_prompts_are_the_clusters_not_the_comparisons():
    # A prompt compared a hundred times counts once, like the others.
    few = win_rate_interval([[1.0], [0.0], [0.5]])
    many = win_rate_interval([[1.0] * 100, [0.0], [0.5]])
    assert few == many == Interval(estimate=0.5, low=few.low, high=few.high)


def test_one_comparison_a_prompt_is_wilson_with_student_t():
    # 7 wins of 10: with m = 10 * 9 / 10 (ddof 1) and t(9, 0.975) = 2.26216, k = t^2 / 9 = 0.56860.
    interval = win_rate_interval([[1.0]] * 7 + [[0.0]] * 3)
    assert interval.low == pytest.approx((0.7 + 0.28430 - math.sqrt(0.21 * 0.56860 + 0.080826)) / 1.56860, abs=1e-4)
    assert interval.high == pytest.approx((0.7 + 0.28430 + math.sqrt(0.21 * 0.56860 + 0.080826)) / 1.56860, abs=1e-4)


def test_win_rates_stay_between_0_and_1():
    assert mean_interval([1.0, 1.0, 1.0, 0.6]).high > 1
    interval = win_rate_interval([[1.0], [1.0], [1.0], [0.6]])
    assert 0 <= interval.low < interval.estimate < interval.high <= 1


def test_many_prompts_in_the_middle_are_students():
    means = np.random.default_rng(1).beta(5, 5, size=5000)
    student, wilson = mean_interval(means), win_rate_interval([[mean] for mean in means])
    assert (wilson.low, wilson.high) == pytest.approx((student.low, student.high), abs=1e-4)


def test_a_clean_sweep_is_not_a_certainty():
    # Wilson for n wins of n: [n / (n + t^2), 1], with t(23, 0.975) = 2.06866.
    assert (
        str(win_rate_interval([[1.0]] * 24)) == f"1.000 [{24 / (24 + 2.06866**2):.3f}, 1.000]" == "1.000 [0.849, 1.000]"
    )
    assert str(win_rate_interval([[0.0, 0.0]] * 24)) == "0.000 [0.000, 0.151]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), r"at least one number, one a prompt; got shape \(0,\)"),
        (lambda: mean_interval([[0.1, 0.2], [0.3, 0.4]]), r"one a prompt; got shape \(2, 2\)"),
        (lambda: mean_interval([0.1, math.nan]), "nan at position 1; leave out prompts that were not judged"),
        (lambda: mean_interval([1.0], confidence=95), "between 0 and 1, got 95"),
        (lambda: win_rate_interval([]), "there is no prompt"),
        (lambda: win_rate_interval([[0.5], [1.5]]), r"must lie in \[0, 1\], got 0.5 to 1.5"),
        (lambda: win_rate_interval([[0.5], []]), "prompt number 1 has none"),
        (lambda: bootstrap_interval([], np.mean), "there is no prompt"),
        (lambda: bootstrap_interval([[1.0]], np.mean, num_resamples=0), "num_resamples must be positive"),
    ],
)
def test_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def simulated_prompts(rng, num_prompts, a, b):
    """Prompts of different difficulty, each with one to six comparisons: the true win rate is a / (a + b)."""
    rates = rng.beta(a, b, size=num_prompts)
    counts = rng.integers(1, 7, size=num_prompts)
    wins = rng.random(counts.sum()) < np.repeat(rates, counts)
    return np.split(wins, np.cumsum(counts)[:-1])


def coverage(interval_of, num_prompts, a, b, num_simulations=NUM_SIMULATIONS):
    rng = np.random.default_rng([num_prompts, round(10 * a), round(10 * b)])
    intervals = [interval_of(simulated_prompts(rng, num_prompts, a, b)) for _ in range(num_simulations)]
    return np.mean([interval.low <= a / (a + b) <= interval.high for interval in intervals])


@pytest.mark.parametrize("num_prompts", [24, 60, 200])
@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (0.8, 0.6), (20.0, 1.0)])
def test_nominal_95_percent_covers_95_percent(num_prompts, a, b):
    assert 0.92 <= coverage(win_rate_interval, num_prompts, a, b) <= 0.98


def test_taking_comparisons_for_independent_covers_too_little():
    # What the clusters are for: prompts of very different difficulty.
    covered = coverage(lambda prompts: mean_interval(np.concatenate(prompts)), 60, 0.3, 0.3)
    assert covered < 0.85
    assert 0.92 <= coverage(win_rate_interval, 60, 0.3, 0.3) <= 0.98


def test_bootstrap_covers_a_mean_over_prompts():
    def interval_of(prompts):
        return bootstrap_interval([[rates.mean()] for rates in prompts], np.mean, num_resamples=200)

    assert 0.92 <= coverage(interval_of, 60, 2.0, 2.0) <= 0.98


def test_bootstrap_is_reproducible_and_close_to_student():
    prompts = simulated_prompts(np.random.default_rng(3), 200, 2.0, 2.0)
    means = [[rates.mean()] for rates in prompts]
    interval = bootstrap_interval(means, np.mean, num_resamples=4000, seed=1)
    assert interval == bootstrap_interval(means, np.mean, num_resamples=4000, seed=1)
    assert interval != bootstrap_interval(means, np.mean, num_resamples=4000, seed=2)
    student = mean_interval([rates.mean() for rates in prompts])
    assert (interval.estimate, interval.low, interval.high) == pytest.approx(
        (student.estimate, student.low, student.high), abs=0.01
    )


def test_bootstrap_draws_whole_prompts():
    # Two prompts of equal values: a resample's mean can only be 0, 1/2 or 1, whatever the number of values in them.
    interval = bootstrap_interval([[0.0] * 50, [1.0] * 50], np.mean, confidence=0.99, num_resamples=500)
    assert (interval.estimate, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_bootstrap_takes_any_statistic():
    interval = bootstrap_interval([[1.0, 2.0], [3.0], [100.0]], np.median, num_resamples=200)
    assert interval.estimate == 2.5
    assert 1.0 <= interval.low <= interval.high <= 100.0
