"""Temperature, calibration error, and the slope beneath them."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit

from sppo_lightning.functional.calibration import fit_scale, reliability
from sppo_lightning.functional.clustered_slope import logistic_slope


def labelled(temperature, rng, M=2000):
    """A judge whose log-odds are `temperature` times too large, and labels by the true ones."""
    log_odds = rng.normal(0, 1.5, M)
    return expit(temperature * log_odds), (rng.random(M) < expit(log_odds)).astype(float), np.arange(M) // 4


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_a_known_temperature_comes_back(temperature):
    fits = [fit_scale(*labelled(temperature, np.random.default_rng(seed))) for seed in range(50)]
    errors = [abs(1 / fit.estimate / temperature - 1) for fit in fits]
    assert np.median(errors) <= 0.05
    covered = np.mean([fit.low <= 1 / temperature <= fit.high for fit in fits])
    assert covered >= 0.86  # binomial(50, .95) falls below once in 100; the benchmark counts 500


def test_the_slope_maximises_the_likelihood():
    rng = np.random.default_rng(0)
    x, outcome = rng.normal(0, 50, 100), rng.random(100)

    def loss(slope):
        return -(outcome * log_expit(slope * x) + (1 - outcome) * log_expit(-slope * x)).sum()

    best = minimize_scalar(loss, bracket=(-0.1, 0.1), tol=1e-12).x
    assert logistic_slope(x, outcome, np.arange(100)).estimate == pytest.approx(best, rel=1e-5)


def test_repeating_a_prompts_comparisons_does_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, 50)
    outcome, prompt = (rng.random(50) < expit(x)).astype(float), np.arange(50)
    once = logistic_slope(x, outcome, prompt)
    often = logistic_slope(np.tile(x, 10), np.tile(outcome, 10), np.tile(prompt, 10))
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_the_interval_of_dependent_outcomes_covers():
    """Ten comparisons of a prompt share its slope: counting them one by one would cover 70 times in 100."""
    covered = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        x = rng.choice([-1.0, 1.0], (60, 10))
        outcome = rng.random((60, 10)) < expit(x * rng.choice([-1.0, 3.0], (60, 1)))
        # The best single slope of this mixture: sigmoid(s) = (sigmoid(-1) + sigmoid(3)) / 2.
        mean = (expit(-1) + expit(3)) / 2
        fit = logistic_slope(x.ravel(), outcome.ravel().astype(float), np.repeat(np.arange(60), 10))
        covered += fit.low <= np.log(mean / (1 - mean)) <= fit.high
    assert 0.93 <= covered / 1000 <= 0.97


@pytest.mark.parametrize("x", [[1.0, -2.0, 3.0], [0.0, 0.0, 0.0], [-1.0, 2.0, -3.0]])
def test_where_the_labels_bound_no_slope_there_is_none(x):
    assert logistic_slope(np.array(x), np.array([1.0, 0.0, 1.0]), np.arange(3)) is None


def test_one_contradiction_bounds_the_slope():
    fit = logistic_slope(np.array([1.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0]), np.arange(3))
    assert 0 < fit.estimate < 5


def test_one_prompt_leaves_the_slope_unbounded():
    fit = logistic_slope(np.array([1.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.0]), np.zeros(3, dtype=int))
    assert fit.estimate == pytest.approx(np.log(2))
    assert (fit.low, fit.high) == (-np.inf, np.inf)


def test_calibration_error_by_hand():
    probs = np.array([0.62, 0.38, 0.98, 0.98])  # confidences .62, .62 | .98, .98
    labels = np.array([1.0, 1.0, 1.0, 0.0])  # right, wrong | right, wrong
    found = reliability(probs, labels)
    assert found.error == pytest.approx(0.5 * 0.12 + 0.5 * 0.48)
    assert found.counts_C.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert found.accuracy_C[2] == 0.5


def test_calibrated_judges_stay_below_the_bound_and_others_do_not():
    below = []
    for seed in range(60):
        probs, labels, _ = labelled(1.0, np.random.default_rng(seed), M=500)
        found = reliability(probs, labels)
        below.append(found.error <= found.error_if_calibrated)
    assert np.mean(below) >= 0.87
    probs, labels, _ = labelled(2.5, np.random.default_rng(0), M=500)
    found = reliability(probs, labels)
    assert found.error > found.error_if_calibrated
