"""Three lower bounds: below the true gap of policies whose gap is known, and near it where they can be."""

import numpy as np
import pytest

from sppo_lightning.evaluation.best_of_n import candidate_samples, opponent_samples
from sppo_lightning.evaluation.exploitability import measure_exploitability
from sppo_lightning.evaluation.gaps import best_of_n_gap, checkpoint_gap, exploiter_gap
from sppo_lightning.functional.games import duality_gap


def true_gap(table, mix):
    return float(duality_gap(table.game, np.array(mix)))


def measured(here, table, contestant, n=64, num_samples=16):
    candidates = candidate_samples([table.member("start")], n, first=num_samples)
    return best_of_n_gap(opponent_samples(here.verdicts, candidates, contestant, num_samples), "start").interval


@pytest.mark.parametrize("name", ["start", "cornered", "papery"])
def test_best_of_n_is_near_the_true_gap(world, table, name):
    interval, truth = measured(world(), table, table.single(name)), true_gap(table, table.mixes[name])
    assert interval.low <= truth
    assert interval.estimate > 0.75 * truth


def test_the_equilibrium_has_no_gap_to_find(world, table):
    assert measured(world(), table, table.single("even")).low < 0.02


def test_best_of_n_is_not_above_the_truth_beyond_its_interval(world, table):
    """20 seeds: chosen on one half and scored on the other, at most a few intervals lie above the truth."""
    above = 0
    for seed in range(20):
        interval = measured(world(num_prompts=24, seed=seed), table, table.single("papery"), n=16, num_samples=8)
        above += interval.low > true_gap(table, table.mixes["papery"])
    assert above <= 2


def test_checkpoints_see_only_what_was_visited():
    # Three policies in a row, each beating the earlier ones: the last reads 0 although scissors would beat it.
    rng = np.random.default_rng(0)
    against_last = np.column_stack([rng.normal(0.3, 0.05, 50), rng.normal(0.4, 0.05, 50), np.full(50, 0.5)])
    gap = checkpoint_gap(against_last, ["start", "round_000", "round_001"])
    assert gap.name == "gap/checkpoints"
    assert str(gap).startswith("gap/checkpoints 0.000 [0.000, 0.000]: a lower bound")
    against_first = 1 - against_last[:, ::-1]
    assert checkpoint_gap(against_first, ["a", "b", "c"]).interval.estimate == pytest.approx(0.4, abs=0.05)


def test_checkpoints_that_tie_do_not_profit_from_their_number():
    """The largest of 20 noisy means is too large; chosen on the other half of the prompts it is not."""
    rng, above = np.random.default_rng(1), []
    for _ in range(50):
        rates = np.column_stack([np.full(24, 0.5), rng.beta(2, 2, (24, 20))])
        above.append(checkpoint_gap(rates, ["c"] * 21).interval.low > 0)
    assert np.mean(above) < 0.1


def test_checkpoints_skip_prompts_without_a_verdict():
    rates = np.array([[0.5, 0.9], [0.5, np.nan], [0.5, 0.9], [0.5, 0.9]])
    assert checkpoint_gap(rates, ["a", "b"]).interval.estimate == pytest.approx(2 * (0.9 - 0.5))


def test_the_exploiter_s_gap_is_twice_its_lead():
    gap = exploiter_gap([[0.8, 0.6], [0.75], [0.65], [0.7]])
    assert gap.name == "gap/exploiter"
    assert gap.interval.estimate == pytest.approx(0.4)
    assert 0 <= gap.interval.low < 0.4 < gap.interval.high <= 1
    assert exploiter_gap([[0.2], [0.3]]).interval.estimate == 0


def test_each_gap_says_what_it_is_and_none_that_it_is_the_gap():
    for gap in (checkpoint_gap(np.full((3, 2), 0.5), ["a", "b"]), exploiter_gap([[0.5], [0.6]])):
        assert "lower bound" in gap.meaning
        assert gap.as_dict()["meaning"] == gap.meaning
        assert set(gap.as_dict()) == {"name", "estimate", "low", "high", "meaning"}


def test_a_run_s_last_policy_and_mixture_together(world, table):
    """Start, then a corner, then the next corner: the last is wide open, beats the one before, and averaging helps."""
    here = world(num_prompts=60)
    members = [table.member(name) for name in ("start", "cornered", "papery")]
    found = measure_exploitability(members, here.verdicts, n=32, num_samples=8)
    assert found.match.names == ("start", "cornered", "papery", "mixture")
    assert found.mixture.weighting == "uniform"
    assert "not confirmed" in found.mixture.reason
    last, mixed = found.last[1].interval, found.mixed[1].interval
    uniform = np.mean([table.mixes[member.name] for member in members], axis=0)
    assert last.low <= true_gap(table, table.mixes["papery"])
    assert mixed.low <= true_gap(table, uniform)
    assert mixed.high < last.low
    assert set(found.metrics) == {
        f"gap/{name}{of}{end}"
        for name in ("checkpoints", "best_of_n")
        for of in ("", "_mixture")
        for end in ("", "_low", "_high")
    }
    assert found.as_dict()["mixture"]["members"] == {m.name: pytest.approx(1 / 3) for m in members}
