import math

import pytest
import torch

from sppo_lightning.errors import OracleError
from sppo_lightning.oracles import PairwiseOracle
from sppo_lightning.oracles.pairwise import AskedPairs

from .examples import candidates


class Lengths(PairwiseOracle):
    """Prefers the longer text, and the first place; counts what it is asked."""

    def __init__(self, bias=0.1):
        super().__init__()
        self.asked = []
        self.bias = bias

    def prefer_first(self, pairs):
        self.asked += pairs
        return [min(1.0, max(0.0, 0.5 + (len(p.first) - len(p.second)) / 20 + self.bias)) for p in pairs]


def test_both_orders_are_averaged_and_the_bias_is_measured():
    oracle = Lengths(bias=0.1)
    matrix = oracle.compare(candidates({"q": ["aaaa", "aa", "aaa"]}))
    assert matrix.probs_BKJ[0].tolist() == [
        pytest.approx([0.5, 0.6, 0.55]),
        pytest.approx([0.4, 0.5, 0.45]),
        pytest.approx([0.45, 0.55, 0.5]),
    ]
    assert oracle.measured() == {"position_bias": pytest.approx(0.1), "failed_pairs": 0}


def test_every_round_is_counted_by_itself():
    oracle = Lengths(bias=0.1)
    oracle.compare(candidates({"q": ["aaaa", "aa"]}))
    of_round = oracle.for_round([])
    assert of_round.measured() == {"failed_pairs": 0}
    of_round.compare(candidates({"q": ["a", "a", "aaa"]}))
    assert of_round.measured()["position_bias"] == pytest.approx(0.1)
    assert oracle.measured()["position_bias"] == pytest.approx(0.1)


def test_no_pair_of_texts_is_asked_twice():
    oracle = Lengths()
    matrix = oracle.compare(candidates({"q": ["a", "bb", "a", "bb"]}))
    assert len(oracle.asked) == 2  # one pair, both orders
    assert bool(matrix.judged_BKJ.all())
    assert matrix.probs_BKJ[0, 0, 2] == 0.5
    assert matrix.probs_BKJ[0, 3, 0] == pytest.approx(0.55)


def test_opponents_and_ragged_prompts():
    oracle = Lengths(bias=0)
    matrix = oracle.compare(candidates({"q": ["aaa", "a"], "r": ["a"]}), candidates({"q": ["aa"], "r": ["aa", "aaa"]}))
    assert not matrix.self_play
    assert matrix.judged_BKJ.tolist() == [[[True, False], [True, False]], [[True, True], [False, False]]]
    assert matrix.probs_BKJ[0, 0, 0] == pytest.approx(0.55)
    assert matrix.probs_BKJ[1, 0, 1] == pytest.approx(0.4)


def test_only_wanted_entries_count_as_judged():
    pairs = AskedPairs(candidates({"q": ["a", "bb", "ccc", "bb"]}))
    assert [(pair.first, pair.second) for pair in pairs.unique] == [("a", "bb"), ("a", "ccc"), ("bb", "ccc")]
    wanted = torch.zeros(1, 4, 4, dtype=torch.bool)
    wanted[0, 2, 0] = wanted[0, 0, 2] = True
    assert pairs.needed(wanted) == [1]
    matrix = pairs.matrix([None, 0.2, None], wanted)
    expected = torch.eye(4, dtype=torch.bool) | wanted[0]  # and not the two equal texts, which were not wanted
    assert torch.equal(matrix.judged_BKJ[0], expected)
    assert matrix.probs_BKJ[0, 2, 0] == pytest.approx(0.8)


def test_a_pair_stands_alone_in_the_order_in_which_it_is_kept():
    pairs = AskedPairs(candidates({"q": ["bb", "a"], "r": ["a"]}), candidates({"q": ["ccc"], "r": ["bb"]}))
    assert [(pair.first, pair.second) for pair in pairs.unique] == [("bb", "ccc"), ("a", "ccc"), ("a", "bb")]
    rows, columns = pairs.alone([2, 0])
    assert (list(rows.texts), list(columns.texts)) == ([["a"], ["bb"]], [["bb"], ["ccc"]])
    assert [prompt.text for prompt in rows.prompts] == ["r", "q"]


def test_a_pair_without_a_verdict_stays_unjudged():
    class Mute(Lengths):
        def prefer_first(self, pairs):
            return [None if "bb" in (pair.first, pair.second) else 0.5 for pair in pairs]

    oracle = Mute()
    matrix = oracle.compare(candidates({"q": ["a", "bb", "ccc"]}))
    assert matrix.judged_BKJ[0].tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert oracle.measured()["failed_pairs"] == 2


@pytest.mark.parametrize("answer", [math.nan, math.inf, -0.1, 1.5])
def test_what_is_not_a_probability_is_refused(answer):
    class Broken(Lengths):
        def prefer_first(self, pairs):
            return [answer] * len(pairs)

    with pytest.raises(OracleError, match="at prompt"):
        Broken().compare(candidates({"q": ["a", "bb"]}))


def test_a_wrong_number_of_verdicts_is_refused():
    class Short(Lengths):
        def prefer_first(self, pairs):
            return [0.5] * (len(pairs) - 1)

    with pytest.raises(OracleError, match="1 verdicts for 2 ordered pairs"):
        Short().compare(candidates({"q": ["a", "bb"]}))
