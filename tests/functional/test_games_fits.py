"""The shipped losses, minimised by gradient on a softmax table, end where the tabular updates say.

Small sizes of what `benchmarks/lab.py` runs in full; sampling tolerances scale with 1 / sqrt(number of prompts).
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from table_fits import (
    exact_step,
    fit,
    population_pairs,
    population_rows,
    sampled_pairs,
    sampled_rounds,
    sampled_rows,
    total_variation,
)

from sppo_lightning import objectives
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.games import win_rates
from sppo_lightning.functional.tabular import normalise, play
from sppo_lightning.functional.tabular_dpo import IterativeDPO, OfflineDPO
from sppo_lightning.functional.tabular_regularised import INPO, MPO, TDMNPO


@pytest.fixture(params=[0, 1])
def case(request):
    """A random game of 20 responses, and the log-policies pi_t, pi_{t-1} and pi_ref."""
    games = game_zoo.random(20, request.param)
    return games, *normalise(0.5 * np.random.default_rng(request.param).standard_normal((3, 20)))


@pytest.mark.parametrize("eta", [0.5, 2.0])
def test_constant_target_on_independent_pairs_is_the_exact_step(case, eta):
    games, logps, _, _ = case
    fitted = fit(objectives.ONPO(eta), population_pairs(games, logps), {"auxiliary": logps})
    assert total_variation(fitted, exact_step(games, logps, eta)) < 1e-6


@pytest.mark.parametrize("eta", [0.5, 2.0])
def test_sppo_with_the_exact_partition_function_is_the_exact_step(case, eta):
    games, logps, _, _ = case
    data = population_rows(games, logps)
    log_z = logsumexp(logps + eta * win_rates(games, np.exp(logps)))
    data["log_z_R"] = torch.full((20,), log_z, dtype=torch.float64)
    fitted = fit(objectives.SPPO(eta, log_z="estimate"), data, {"previous": logps})
    assert total_variation(fitted, exact_step(games, logps, eta)) < 1e-6


@pytest.mark.parametrize(("eta", "tolerance"), [(1.0, 1e-3), (2.0, 5e-3)])
def test_sppo_with_half_eta_is_nearly_but_not_exactly_the_step(case, eta, tolerance):
    games, logps, _, _ = case
    fitted = fit(objectives.SPPO(eta), population_rows(games, logps), {"previous": logps})
    assert 1e-5 < total_variation(fitted, exact_step(games, logps, eta)) < tolerance


def test_sppo_at_the_official_step_is_far_from_the_exact_step(case):
    # Normalisation caps the winners, so the fit only filters losers: tests of exactness need small steps.
    games, logps, _, _ = case
    fitted = fit(objectives.SPPO(100.0), population_rows(games, logps), {"previous": logps})
    assert total_variation(fitted, exact_step(games, logps, 100.0)) > 0.3


def test_anchored_pair_losses_are_the_tabular_updates(case):
    games, logps, older, reference = case
    data = population_pairs(games, logps)
    frozen = {"previous": logps, "history/1": older, "anchor": reference}
    exact = play(INPO(0.5, 0.2), games, logps, reference, 1)[1]
    assert total_variation(fit(objectives.INPO(0.5, 0.2), data, frozen), exact) < 1e-6
    magnetic = play(MPO(0.5, 0.2), games, logps, reference, 1)[1]
    assert total_variation(fit(objectives.MPO(0.5, 0.2), data, frozen), magnetic) < 1e-6


def test_td_mnpo_learns_the_win_rate_against_the_newest_policy_only(case):
    games, logps, older, reference = case
    objective = objectives.TDMNPO(0.5, anchor_weight=0.1, history_weights=(0.25, 0.75))
    data = population_pairs(games, logps)
    fitted = fit(objective, data, {"previous": logps, "history/1": older, "anchor": reference})
    anchor = 0.1 * reference + 0.9 * (0.25 * logps + 0.75 * older)
    against_newest = normalise(anchor + 0.5 * games @ np.exp(logps))
    against_mixture = normalise(anchor + 0.5 * games @ (0.25 * np.exp(logps) + 0.75 * np.exp(older)))
    assert total_variation(fitted, against_newest) < 1e-6
    assert total_variation(fitted, against_mixture) > 1e-3


def test_td_mnpo_update_of_the_lab_is_that_fit(case):
    games, logps, _, reference = case
    objective = objectives.TDMNPO(0.5, anchor_weight=0.1, history_weights=(0.25, 0.75))
    _, first, second = play(TDMNPO(0.5, 0.2, (0.25, 0.75)), games, logps, reference, 2)
    frozen = {"previous": first, "history/1": logps, "anchor": reference}
    assert total_variation(fit(objective, population_pairs(games, first), frozen), second) < 1e-6


def test_dpo_minimises_to_the_bradley_terry_fit(case):
    games, logps, _, reference = case
    iterated = fit(objectives.DPO(beta=1.0), population_pairs(games, logps), {"previous": logps})
    assert total_variation(iterated, play(IterativeDPO(1.0), games, logps, logps, 1)[1]) < 1e-6
    uniform = normalise(np.zeros(20))
    offline = fit(
        objectives.DPO(beta=0.5, reference="anchor", label_smoothing=0.1),
        population_pairs(games, uniform),
        {"anchor": reference},
    )
    assert total_variation(offline, play(OfflineDPO(0.5, 0.1), games, logps, reference, 1)[1]) < 1e-6


def test_thousand_prompts_of_five_give_the_step(case):
    games, logps, _, _ = case
    data = sampled_rows(games, logps, num_prompts=1000, rng=np.random.default_rng(0))
    fitted = fit(objectives.SPPO(1.0), data, {"previous": logps})
    assert total_variation(fitted, exact_step(games, logps, 1.0)) < 0.002 * np.sqrt(10)


def test_counting_the_comparison_with_itself_shortens_the_step(case):
    games, logps, _, _ = case
    data = sampled_rows(games, logps, num_prompts=1000, rng=np.random.default_rng(0), with_self=True)
    fitted = fit(objectives.SPPO(1.0), data, {"previous": logps})
    assert total_variation(fitted, exact_step(games, logps, 1.0)) > 0.004
    assert total_variation(fitted, exact_step(games, logps, 0.8)) < 0.002 * np.sqrt(10)


def test_thousand_independent_binary_pairs_give_the_step():
    distances = []
    for seed in range(4):
        games = game_zoo.random(20, seed)
        logps = normalise(0.5 * np.random.default_rng(seed).standard_normal(20))
        data = sampled_pairs(games, logps, num_pairs=1000, rng=np.random.default_rng(seed))
        fitted = fit(objectives.ONPO(1.0), data, {"auxiliary": logps})
        distances.append(total_variation(fitted, exact_step(games, logps, 1.0)))
    assert np.mean(distances) < 0.008 * np.sqrt(10)


@pytest.mark.parametrize(("num_prompts", "tolerance"), [(200, 0.02), (1000, 0.005 * np.sqrt(2))])
def test_sampled_rounds_are_as_hard_to_exploit_as_exact_ones(num_prompts, tolerance):
    games = game_zoo.rps(0.9, 0.7, 0.8)
    start = normalise(0.5 * np.random.default_rng(0).standard_normal(3))
    eta = np.sqrt(8 * np.log(3) / 200)
    sampled, exact = sampled_rounds(games, start, eta, 200, num_prompts, np.random.default_rng(0))
    assert abs(sampled - exact) < tolerance
    assert sampled < 0.05
