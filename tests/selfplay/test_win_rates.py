import math

import pytest
import torch

from sppo_lightning.selfplay.win_rates import mean_scores, mixture_win_rates, win_rates
from sppo_lightning.types import PreferenceMatrix


def random_matrix(B=6, K=5, unjudged=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    upper = torch.rand(B, K, K, generator=generator, dtype=torch.float64).triu(1)
    probs = upper + (1 - upper).mT.tril(-1) + torch.eye(K) / 2
    judged = (torch.rand(B, K, K, generator=generator) >= unjudged).triu(1)
    judged_BKK = judged | judged.mT | torch.eye(K, dtype=torch.bool)
    # What was not judged holds what would be noticed.
    return PreferenceMatrix(probs_BKJ=torch.where(judged_BKK, probs, math.nan), judged_BKJ=judged_BKK)


@pytest.mark.parametrize("K", [2, 3, 5, 8])
def test_self_comparison_shrinks_the_step_by_exactly_k_minus_1_over_k(K):
    matrix = random_matrix(K=K, unjudged=0)
    with_itself, without = win_rates(matrix, self_comparison=True), win_rates(matrix)
    torch.testing.assert_close(with_itself - 0.5, (K - 1) / K * (without - 0.5), rtol=1e-14, atol=1e-15)
    assert (without - 0.5).abs().max() > 0.1


@pytest.mark.parametrize("self_comparison", [False, True])
def test_only_judged_comparisons_count(self_comparison):
    matrix = random_matrix()
    for b, k in torch.cartesian_prod(torch.arange(6), torch.arange(5)).tolist():
        counted = [
            float(matrix.probs_BKJ[b, k, j])
            for j in range(5)
            if matrix.judged_BKJ[b, k, j] and (self_comparison or j != k)
        ]
        found = float(win_rates(matrix, self_comparison)[b, k])
        assert found == pytest.approx(sum(counted) / len(counted)) if counted else math.isnan(found)


def test_a_response_judged_against_nobody_has_no_win_rate():
    matrix = PreferenceMatrix(probs_BKJ=torch.full((1, 2, 2), 0.5), judged_BKJ=torch.eye(2, dtype=torch.bool)[None])
    assert win_rates(matrix).isnan().all()
    assert win_rates(matrix, self_comparison=True).tolist() == [[0.5, 0.5]]


def test_other_opponents_have_no_diagonal():
    matrix = PreferenceMatrix(probs_BKJ=torch.tensor([[[0.9, 0.1], [0.4, 0.4]]]), self_play=False)
    assert win_rates(matrix).tolist() == [[pytest.approx(0.5), pytest.approx(0.4)]]


def test_a_mixture_weighs_the_opponents_a_response_was_judged_against():
    ours, older = torch.tensor([[0.8, 0.6, math.nan]]), torch.tensor([[0.2, math.nan, math.nan]])
    mixed = mixture_win_rates([ours, older], [0.75, 0.25])
    assert mixed[0, :2].tolist() == [pytest.approx(0.65), pytest.approx(0.6)]
    assert mixed[0, 2].isnan()


def test_scores_are_differences_to_the_others():
    scores = torch.tensor([[3.0, 1.0, -4.0]])
    matrix = PreferenceMatrix(
        probs_BKJ=torch.full((1, 3, 3), 0.5),
        judged_BKJ=torch.tensor([[[True, True, True], [True, True, False], [True, False, True]]]),
        scores_BK=scores,
    )
    assert mean_scores(matrix).tolist() == [[4.5, -2.0, -7.0]]
    assert mean_scores(matrix, self_comparison=True).tolist() == [[3.0, -1.0, -3.5]]
    assert mean_scores(random_matrix()) is None
