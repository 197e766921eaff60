import pytest
import torch

from sppo_lightning.selfplay.pairing import All, BestWorst, ExpectedVerdicts
from sppo_lightning.selfplay.win_rates import win_rates
from sppo_lightning.types import PreferenceMatrix

NAN = float("nan")
# Response 0 beats 1, 1 beats 2, 2 beats 0; 3 loses to all. Win rates over the other three.
PROBS = torch.tensor([[0.5, 0.9, 0.3, 0.8], [0.1, 0.5, 0.7, 0.9], [0.7, 0.3, 0.5, 0.6], [0.2, 0.1, 0.4, 0.5]])
JUDGED = torch.ones(4, 4, dtype=torch.bool)
RATES = (PROBS.sum(1) - 0.5) / 3
EVERYTHING = torch.ones(4, dtype=torch.bool)


def test_best_worst_takes_the_ends_of_the_win_rates():
    targets = BestWorst()(PROBS, JUDGED, RATES, EVERYTHING)
    assert (targets.rows, targets.pairs, targets.row_weights) == ((0, 3), ((0, 3),), (1.0, 1.0))
    assert targets.pair_probs == (pytest.approx(0.8),)


def test_best_worst_looks_among_the_trainable_only():
    targets = BestWorst()(PROBS, JUDGED, RATES, torch.tensor([False, True, True, False]))
    assert targets.rows == (1, 2)


def test_best_worst_keeps_the_rows_of_a_pair_that_was_not_judged():
    judged = JUDGED.clone()
    judged[0, 3] = judged[3, 0] = False
    targets = BestWorst()(PROBS, judged, RATES, EVERYTHING)
    assert (targets.rows, targets.pairs) == ((0, 3), ())


@pytest.mark.parametrize("tie", [torch.full((4,), 0.5), torch.tensor([0.2, NAN, NAN, 0.2])])
def test_best_worst_skips_a_tie(tie):
    assert BestWorst()(PROBS, JUDGED, tie, ~tie.isnan()).rows == ()


def test_best_worst_skips_a_cycle_whose_sums_round_differently():
    ring = torch.tensor([0.5, 0.9, 0.7, 0.3, 0.1])
    probs = torch.stack([ring.roll(k) for k in range(5)])
    rates = win_rates(PreferenceMatrix(probs_BKJ=probs[None]))[0]
    assert rates.unique().numel() > 1, "the example must show the rounding"
    assert BestWorst()(probs, torch.ones(5, 5, dtype=torch.bool), rates, torch.ones(5, dtype=torch.bool)).rows == ()


def test_all_takes_every_comparison_the_right_way_round():
    targets = All()(PROBS, JUDGED, RATES, EVERYTHING)
    assert targets.rows == (0, 1, 2, 3)
    assert set(targets.pairs) == {(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)}


def test_all_leaves_out_ties_and_what_was_not_judged():
    probs, judged = PROBS.clone(), JUDGED.clone()
    probs[0, 1] = probs[1, 0] = 0.5
    judged[1, 2] = judged[2, 1] = False
    targets = All()(probs, judged, RATES, EVERYTHING)
    assert set(targets.pairs) == {(2, 0), (0, 3), (1, 3), (2, 3)}


def test_all_keeps_rows_that_all_tie():
    targets = All()(torch.full((4, 4), 0.5), JUDGED, torch.full((4,), 0.5), EVERYTHING)
    assert (targets.rows, targets.pairs) == ((0, 1, 2, 3), ())


def test_expected_verdicts_weigh_both_ways_round_with_their_probability():
    probs = torch.tensor([[0.5, 0.9, 1.0], [0.1, 0.5, 0.5], [0.0, 0.5, 0.5]])
    targets = ExpectedVerdicts()(
        probs, torch.ones(3, 3, dtype=torch.bool), torch.tensor([0.95, 0.3, 0.25]), torch.ones(3, dtype=torch.bool)
    )
    found = dict(zip(targets.pairs, targets.pair_weights, strict=True))
    expected = {(0, 1): 0.9, (1, 0): 0.1, (0, 2): 1.0, (1, 2): 0.5, (2, 1): 0.5}
    assert found == pytest.approx(expected), "a certain verdict has no other side"
    assert targets.pair_probs == targets.pair_weights
