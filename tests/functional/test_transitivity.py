"""The test of transitivity: exact for Bradley-Terry judges, awake to cycles. benchmarks/audit.py has the full sizes."""

from itertools import product

import numpy as np
import pytest
from scipy.special import comb, expit

from sppo_lightning.functional.transitivity import cycle_depths, transitivity_test
from sppo_lightning.functional.win_total_chain import WinTotalChain


def draw(log_odds, votes, rng):
    """Votes [..., K, K] of a judge, and how many of them each pair got."""
    upper = np.triu(rng.binomial(votes, expit(log_odds)), 1)
    return upper + np.swapaxes(np.triu(votes, 1) - upper, -1, -2)


def both_ways(upper):
    upper = np.triu(upper, 1)
    return upper + np.swapaxes(upper, -1, -2)


def judges(num_judges, spread, lowest, highest, rng, num_prompts=80, K=5):
    scores = rng.normal(0, spread, (num_judges, num_prompts, K))
    votes = both_ways(rng.integers(lowest, highest + 1, (num_judges, num_prompts, K, K)))
    return scores[..., :, None] - scores[..., None, :], votes


def plant(log_odds, probability, rng):
    """One cyclic triad of the ten in every prompt."""
    J, B, K = log_odds.shape[:3]
    for j, b in product(range(J), range(B)):
        ring = rng.permutation(K)[:3]
        for winner, loser in zip(ring, np.roll(ring, -1), strict=True):
            log_odds[j, b, winner, loser] = np.log(probability / (1 - probability))
            log_odds[j, b, loser, winner] = -log_odds[j, b, winner, loser]
    return log_odds


def all_tables(wins, votes):
    """Every table with the same votes and win totals, with its weight prod C(n, w), by enumeration."""
    K = len(wins)
    pairs = [(i, j) for i in range(K) for j in range(i + 1, K)]
    found = {}
    for values in product(*[range(votes[pair] + 1) for pair in pairs]):
        table = np.zeros_like(wins)
        for (i, j), value in zip(pairs, values, strict=True):
            table[i, j], table[j, i] = value, votes[i, j] - value
        if (table.sum(axis=1) == wins.sum(axis=1)).all():
            found[table.tobytes()] = np.prod(
                [comb(votes[pair], value) for pair, value in zip(pairs, values, strict=True)]
            )
    total = sum(found.values())
    return {table: weight / total for table, weight in found.items()}


@pytest.mark.parametrize(
    "wins",
    [
        [[0, 1, 1, 1], [0, 0, 1, 2], [2, 1, 0, 0], [1, 1, 1, 0]],
        [[0, 2, 0, 1], [1, 0, 1, 0], [0, 1, 0, 2], [1, 0, 1, 0]],  # only a ring of four can move
    ],
    ids=["all pairs", "pairs not judged"],
)
def test_the_chain_visits_tables_as_often_as_their_law_says(wins):
    rng = np.random.default_rng(0)
    wins = np.array(wins)
    votes = wins + wins.T
    law = all_tables(wins, votes)
    assert len(law) > 2
    copies = np.repeat(wins[None], 400, axis=0)
    chain = WinTotalChain(copies, np.repeat(votes[None], 400, axis=0), rng)
    seen = dict.fromkeys(law, 0)
    for tables in chain.samples(40, 20):
        for table in tables:
            seen[np.ascontiguousarray(table).tobytes()] += 1
    for table, probability in law.items():
        assert seen[table] / 16_000 == pytest.approx(probability, abs=0.02)


def test_many_votes_on_a_pair_move_in_larger_steps():
    votes = both_ways(np.full((1, 3, 3), 400))
    wins = draw(np.zeros((3, 3)), votes, np.random.default_rng(1))
    chain = WinTotalChain(wins, votes, np.random.default_rng(2))
    values = [table[0, 0, 1] for table in chain.samples(2000, 5)]
    # Given the totals, one number d is free, and its law is prod C(n, w + d) over the ring.
    shifts = np.arange(-300, 301)
    ring = np.array([wins[0, 0, 1], wins[0, 1, 2], wins[0, 2, 0]])[:, None] + shifts
    with np.errstate(divide="ignore"):
        log_law = np.log(comb(400, ring)).sum(axis=0)
    law = np.exp(log_law - log_law.max()) / np.exp(log_law - log_law.max()).sum()
    mean = (law * ring[0]).sum()
    assert np.mean(values) == pytest.approx(mean, abs=1.5)
    assert np.std(values) == pytest.approx(np.sqrt((law * (ring[0] - mean) ** 2).sum()), rel=0.15)


def test_a_cycle_is_as_deep_as_its_weakest_majority():
    wins = np.array([[[0, 3, 1], [0, 0, 2], [4, 1, 0]]])
    votes = wins + wins.swapaxes(1, 2)
    weakest = 2 * np.log(2 / 3) + np.log(1 / 3) + 3 * np.log(2)
    assert sorted(cycle_depths(wins, votes)[0]) == [0, pytest.approx(weakest)]
    reversed_cycle = cycle_depths(wins.swapaxes(1, 2), votes)[0]
    assert sorted(reversed_cycle) == [0, pytest.approx(weakest)]


def test_false_alarms_are_as_many_as_promised():
    rng = np.random.default_rng(3)
    log_odds, votes = judges(200, 1.0, 1, 3, rng, num_prompts=30)
    p = transitivity_test(draw(log_odds, votes, rng), votes, num_samples=99).p_value_J
    assert 0.01 <= (p <= 0.05).mean() <= 0.095  # binomial(200, .05) leaves this once in 300
    assert p.mean() == pytest.approx(0.5, abs=0.08)


def test_cycles_are_seen_in_a_tenth_of_the_triads():
    rng = np.random.default_rng(4)
    log_odds, votes = judges(20, 1.0, 5, 5, rng)
    wins = draw(plant(log_odds, 0.8, rng), votes, rng)
    assert (transitivity_test(wins, votes, num_samples=99).p_value_J <= 0.05).all()


def test_one_vote_on_each_pair_cannot_tell():
    rng = np.random.default_rng(5)
    log_odds, votes = judges(2, 0.0, 1, 1, rng)
    test = transitivity_test(draw(log_odds, votes, rng), votes, num_samples=50)
    assert (test.cyclic_prompts_J > 0).all()
    assert not test.varies_J.any()
    assert test.p_value_J.tolist() == [1, 1]


def test_equal_seeds_give_equal_p_values_and_judges_do_not_mix():
    rng = np.random.default_rng(6)
    log_odds, votes = judges(2, 1.0, 3, 3, rng, num_prompts=20)
    log_odds[1] = plant(log_odds[1:], 0.95, rng)[0]
    wins = draw(log_odds, votes, rng)
    first, second = (transitivity_test(wins, votes, num_samples=199, seed=1) for _ in range(2))
    assert first.p_value_J.tolist() == second.p_value_J.tolist()
    assert first.p_value_J[0] > 0.05 > first.p_value_J[1]
