"""Designs of pairs: balanced, connected, unbiased; and stopping early finds the best and the worst."""

import pytest
import torch

from sppo_lightning.functional.pair_design import opponents_order, self_play_order, share_of, still_open


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("num_pairs", [1, 3, 10, 28])
def test_a_share_is_never_exceeded_and_used_up(share, num_pairs):
    numbers = [share_of(share, num_pairs, index) for index in range(100)]
    for prompts in range(1, 101):
        assert share * num_pairs * prompts - 1 < sum(numbers[:prompts]) <= share * num_pairs * prompts + 1e-6
    assert max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize("K", range(2, 17))
def test_every_beginning_is_balanced_and_soon_connected(K):
    order = self_play_order(K, seed=3)
    assert sorted(order) == [(i, j) for i in range(K) for j in range(i + 1, K)]
    degree, group = [0] * K, list(range(K))
    for number, (i, j) in enumerate(order, start=1):
        degree[i] += 1
        degree[j] += 1
        group = [group[i] if g == group[j] else g for g in group]
        assert max(degree) - min(degree) <= 1 + K % 2
        assert number < K - 1 or len(set(group)) == 1
        assert number < -(-K // 2) or min(degree) >= 1, "nobody is left out where that can be"


def test_every_pair_is_equally_likely():
    counts = torch.zeros(5, 5)
    for seed in range(4000):
        for i, j in self_play_order(5, seed)[:3]:
            counts[i, j] += 1
    expected = 4000 * 3 / 10
    chosen = counts[counts > 0]
    assert len(chosen) == 10
    assert float((chosen - expected).abs().max()) < 5 * (expected * 0.7) ** 0.5


@pytest.mark.parametrize(("K", "J"), [(2, 5), (5, 2), (4, 4), (1, 3)])
def test_opponents_meet_rows_and_columns_in_turn(K, J):
    order = opponents_order(K, J, seed=1)
    assert sorted(order) == [(i, j) for i in range(K) for j in range(J)]
    for number in range(1, K * J + 1):
        rows = [sum(entry[0] == i for entry in order[:number]) for i in range(K)]
        assert max(rows) - min(rows) <= 1


def judged_until_certain(probs_KK, certainty, seed):
    K = len(probs_KK)
    judged_KK, order = torch.eye(K, dtype=torch.bool), self_play_order(K, seed)
    step = order[: K - 1]
    while step:
        for i, j in step:
            assert not judged_KK[i, j], "no pair is asked for twice"
            judged_KK[i, j] = judged_KK[j, i] = True
        assert len({k for pair in step for k in pair}) == 2 * len(step) or len(step) == K - 1
        step = still_open(probs_KK, judged_KK, torch.ones(K, dtype=torch.bool), order, certainty)
    return judged_KK


def random_game(K, seed):
    """Strengths and a cycle of three styles."""
    generator = torch.Generator().manual_seed(seed)
    strength_K, style_K = torch.rand(K, generator=generator), torch.randint(3, (K,), generator=generator)
    cycle = torch.tensor([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
    return torch.sigmoid(4 * (strength_K[:, None] - strength_K) + 0.5 * cycle[style_K][:, style_K])


def test_stopping_early_finds_the_best_and_the_worst_with_their_full_win_rates():
    right, pairs = 0, 0
    for seed in range(60):
        probs_KK = random_game(16, seed)
        judged_KK = judged_until_certain(probs_KK, 0.9, seed)
        rate_K = torch.where(judged_KK, probs_KK, 0).sum(1) / judged_KK.sum(1)
        best, worst = int(rate_K.argmax()), int(rate_K.argmin())
        assert bool(judged_KK[best].all()), "what is trained on is known exactly"
        assert bool(judged_KK[worst].all())
        right += (best == int(probs_KK.sum(1).argmax())) + (worst == int(probs_KK.sum(1).argmin()))
        pairs += (int(judged_KK.sum()) - 16) // 2
    assert right >= 0.95 * 120
    assert pairs < 0.8 * 60 * 120


def test_truncated_responses_are_neither_best_nor_worst():
    probs_KK = torch.tensor([[0.5, 0.9, 0.9, 0.9], [0.1, 0.5, 0.6, 0.6], [0.1, 0.4, 0.5, 0.6], [0.1, 0.4, 0.4, 0.5]])
    nothing_KK, order = torch.eye(4, dtype=torch.bool), self_play_order(4, 0)
    assert still_open(probs_KK, nothing_KK, torch.zeros(4, dtype=torch.bool), order, 0.9) == []
    judged_KK = nothing_KK.clone()
    for k in range(4):
        judged_KK[1, k] = judged_KK[k, 1] = judged_KK[3, k] = judged_KK[k, 3] = True
    only_two = torch.tensor([False, True, False, True])
    assert still_open(probs_KK, judged_KK, only_two, order, 0.9) == [], "0 and 2 have not met, and need not"
    assert still_open(probs_KK, judged_KK, torch.ones(4, dtype=torch.bool), order, 0.9) == [(0, 2)]
