"""All against all on policies whose true win rates are known."""

import json

import numpy as np
import pytest

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.evaluation.head_to_head import head_to_head, head_to_head_of, payoff_bootstrap
from sppo_lightning.evaluation.payoff import Payoff
from sppo_lightning.functional.games import von_neumann_winner
from sppo_lightning.functional.resampling import expanded_percentiles


def truth(table, a, b):
    return float(np.array(table.mixes[a]) @ table.game @ np.array(table.mixes[b]))


@pytest.fixture
def match(world, table):
    """A match of four policies and a mixture of two of them, and the world it was played in."""
    here = world()
    contestants = [table.single(name) for name in table.mixes]
    return head_to_head([*contestants, table.mixture(start=0.25, papery=0.75)], here.verdicts, 8), here


def test_win_rates_are_near_the_truth_and_antisymmetric(match, table):
    found, here = match
    assert found.names == (*table.mixes, "mixture")
    np.testing.assert_allclose(found.win_rates_NN + found.win_rates_NN.T, 1)
    assert np.diag(found.win_rates_NN).tolist() == [0.5] * 5
    for i, a in enumerate(table.mixes):
        for j, b in enumerate(table.mixes):
            assert found.win_rates_NN[i, j] == pytest.approx(truth(table, a, b) if i != j else 0.5, abs=0.05)
    assert here.judge.num_calls == 6, "each pair of policies once, the mixture for nothing"


def test_a_mixture_wins_as_its_members_do_on_average(match):
    found, _ = match
    expected = 0.25 * found.win_rates_NN[0] + 0.75 * found.win_rates_NN[3]
    np.testing.assert_allclose(found.win_rates_NN[4, :4], expected[:4])


def test_what_follows_from_the_matrix(match):
    found, _ = match
    low, high = found.intervals_NN2[..., 0], found.intervals_NN2[..., 1]
    off = ~np.eye(5, dtype=bool)
    assert (low[off] < found.win_rates_NN[off]).all()
    assert (found.win_rates_NN[off] < high[off]).all()
    np.testing.assert_allclose(low + high.T, 1, atol=0.02)
    assert found.elo_N[0] == 1000
    assert (found.elo_intervals_N2[1:, 0] < found.elo_N[1:]).all()
    assert found.equilibrium.policy_N.sum() == pytest.approx(1)
    assert found.equilibrium.policy_N.tolist() == von_neumann_winner(found.win_rates_NN).policy_N.tolist()
    assert 0 <= found.cyclic_share <= 1
    assert json.loads(json.dumps(found.as_dict()))["num_prompts"] == 40


def test_going_on_later_judges_nothing_again(match, world, table):
    found, _ = match
    later = world()
    again = head_to_head([table.single(name) for name in ("papery", "start")], later.verdicts, 8)
    assert later.judge.num_calls == 0
    assert later.engine.calls == 0
    assert again.win_rates_NN[0, 1] == pytest.approx(found.win_rates_NN[3, 0])


def test_rock_paper_scissors_is_one_cycle(world, table, monkeypatch):
    corners = {"a": (1, 0, 0), "b": (0, 1, 0), "c": (0, 0, 1)}
    for name, mix in corners.items():
        monkeypatch.setitem(table.mixes, name, mix)
    found = head_to_head([table.single(name) for name in corners], world().verdicts, 2)
    assert found.cyclic_share == 1
    assert found.curl > 0.8
    np.testing.assert_allclose(found.equilibrium.policy_N, [2 / 9, 3 / 9, 4 / 9], atol=1e-6)
    np.testing.assert_allclose(found.elo_N, 1000, atol=150)


def test_a_clean_sweep_is_not_a_certainty(table):
    sweep_BNN = np.repeat(np.array([[[0.5, 1.0], [0.0, 0.5]]]), 24, axis=0)
    members = [table.member(name) for name in ("start", "even")]
    payoff = Payoff(
        members=members, win_rates_BMM=sweep_BNN, length_controlled_MM=np.full((2, 2), 0.5), length_slope=0.0
    )
    found = head_to_head_of([table.single(name) for name in ("start", "even")], payoff)
    # The bootstrap has no width; Wilson's interval for 24 wins of 24 has, see test_intervals.
    assert found.intervals_NN2[0, 1].tolist() == [pytest.approx(0.849, abs=1e-3), 1.0]
    assert found.intervals_NN2[1, 0].tolist() == [0.0, pytest.approx(0.151, abs=1e-3)]
    assert -1000 < found.elo_N[1] < 600


def test_prompts_without_a_verdict_are_left_out(world, table):
    here = world(judge=table.referee(silent=("p0", "p3")))
    found = head_to_head([table.single("start"), table.single("even")], here.verdicts, 4)
    assert np.isnan(found.win_rates_BNN[0, 0, 1])
    assert np.isfinite(found.win_rates_NN).all()
    assert np.isfinite(found.intervals_NN2).all()


def test_who_cannot_play(world, table):
    with pytest.raises(ConfigError, match="at least two contestants"):
        head_to_head([table.single("start")], world().verdicts, 2)
    with pytest.raises(ConfigError, match="different names"):
        head_to_head([table.single("start"), table.single("start")], world().verdicts, 2)
    with pytest.raises(ConfigError, match="at least two prompts"):
        head_to_head([table.single("start"), table.single("even")], world(num_prompts=1).verdicts, 2)
    silent = table.referee(silent=tuple(f"p{b}" for b in range(40)))
    with pytest.raises(OracleError, match="no verdict on even against start"):
        head_to_head([table.single("start"), table.single("even")], world(judge=silent).verdicts, 2)


def test_the_clustered_bootstrap_covers():
    """Nominal 95 %: 92 to 98 in 100 over 500 simulated matches of 24 prompts, prompts being alike inside."""
    rng, covered, cells = np.random.default_rng(0), 0, 0
    truth_NN = np.array([[0.5, 0.7, 0.85], [0.3, 0.5, 0.6], [0.15, 0.4, 0.5]])
    upper = np.triu_indices(3, 1)
    for seed in range(500):
        rates_BNN = np.full((24, 3, 3), 0.5)
        for i, j in zip(*upper, strict=True):
            # A Beta whose mean is the true win rate, shared by the four comparisons of a prompt.
            shared_B = rng.beta(4 * truth_NN[i, j], 4 * (1 - truth_NN[i, j]), 24)
            rates_BNN[:, i, j] = rng.binomial(4, shared_B) / 4
            rates_BNN[:, j, i] = 1 - rates_BNN[:, i, j]
        _, resampled_RNN = payoff_bootstrap(rates_BNN, num_resamples=400, seed=seed)
        low, high = expanded_percentiles(resampled_RNN, 24)
        covered += int(((low <= truth_NN) & (truth_NN <= high))[upper].sum())
        cells += 3
    assert 0.92 <= covered / cells <= 0.98
