import math

import pytest
import torch

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import Constrained, Constraint, Forbidden, Scorer, ScoreToPreference, StyleGame, Verifier
from sppo_lightning.oracles import TargetLength as Length
from sppo_lightning.oracles.pairwise import AskedPairs

from .examples import candidates

# By bytes of text: "ok" is as long as it should be, and each further letter costs one nat.
JUDGE = ScoreToPreference(Length(2))
SAY = {"q": ["ok", "okk", "bad", "bad bad"]}
RULE = Constraint(Forbidden("bad"))


def probs(oracle, texts=SAY):
    return oracle.compare(candidates(texts)).probs_BKJ[0]


def test_veto():
    judged, free = probs(Constrained(JUDGE, [RULE])), probs(JUDGE)
    assert judged[:2, 2:].tolist() == [[1, 1], [1, 1]]
    assert torch.equal(judged[2:, 2:], free[2:, 2:])  # "bad bad" is not worse by the rule
    assert torch.equal(judged[:2, :2], free[:2, :2])
    assert len(free[:2, :2].unique()) == len(free[2:, 2:].unique()) == 3


def test_lexicographic():
    second = Constraint(Verifier("answer", match="regex"), at_least=1)
    responses = {"q": ["no", "yes", "bad yes", "bad no", "bad bad yes"]}
    oracle = Constrained(JUDGE, [RULE, second], mode="lexicographic")
    matrix = oracle.compare(candidates(responses, answer=".*yes")).probs_BKJ[0]
    assert matrix[1].tolist() == [1, 0.5, 1, 1, 1]  # keeps both
    assert matrix[0].tolist() == [0.5, 0, 1, 1, 1]  # breaks the less important one
    assert matrix[2, 3:].tolist() == [1, 1]  # once bad like one, less often than the other
    assert float(matrix[3, 4]) == 1  # the first rule decides, though the second says otherwise


def test_lexicographic_leaves_equals_to_the_oracle():
    judged = probs(Constrained(JUDGE, [RULE], mode="lexicographic"), {"q": ["bad", "bad!"]})
    assert float(judged[0, 1]) == pytest.approx(1 / (1 + math.exp(-1)))


def test_lagrangian_prices_the_difference():
    judged = probs(Constrained(JUDGE, [RULE], mode="lagrangian", multiplier=3))
    free = probs(JUDGE)
    expected = torch.sigmoid(torch.logit(free[0, 2:]) + torch.tensor([3.0, 6.0]))  # "bad bad" breaks it twice
    torch.testing.assert_close(judged[0, 2:], expected)
    assert float(judged[0, 1]) == float(free[0, 1])


def test_the_price_follows_the_stored_rounds_and_the_oracle_itself_keeps_the_first():
    oracle = Constrained(JUDGE, [RULE], mode="lagrangian", multiplier=1, step=4, allowed=0.25)
    rounds = [[candidates(SAY)], [candidates({"q": ["ok"] * 4})], [candidates({"q": ["bad"]}), candidates(SAY)]]
    assert oracle.for_round([]).multiplier == 1
    assert oracle.for_round(rounds[:1]).multiplier == 1 + 4 * (0.5 - 0.25)
    assert oracle.for_round(rounds[:2]).multiplier == 1 + 4 * (0.5 - 0.25) - 4 * 0.25
    assert oracle.for_round(rounds).multiplier == pytest.approx(1 + 4 * (3 / 5 - 0.25))
    assert oracle.for_round([rounds[1]] * 9).multiplier == 0  # a price is never negative
    assert oracle.multiplier == 1
    later = oracle.for_round(rounds)
    later.compare(candidates(SAY))
    assert later.measured() == {"violations": 0.5, "multiplier": later.multiplier}


def test_other_modes_read_no_earlier_round():
    def unread():
        raise AssertionError
        yield

    Constrained(JUDGE, [RULE]).for_round([unread()])


def test_against_opponents_and_ragged_prompts():
    ours, theirs = candidates({"q": ["bad"], "r": ["ok", "bad"]}), candidates({"q": ["ok", "bad"], "r": ["bad"]})
    matrix = Constrained(JUDGE, [RULE]).compare(ours, theirs)
    assert matrix.judged_BKJ.tolist() == [[[True, True], [False, False]], [[True, False], [True, False]]]
    assert matrix.probs_BKJ[0, 0].tolist() == [0, 0.5]  # "bad" is on both sides
    assert [float(p) for p in matrix.probs_BKJ[1, :, 0]] == [1, 0.5]


def test_violations_are_counted():
    oracle = Constrained(StyleGame(), [RULE])
    assert oracle.measured() == {}
    oracle.compare(candidates(SAY))
    oracle.compare(candidates({"q": ["ok"], "r": ["bad", "ok", "ok"]}))
    assert oracle.measured() == {"violations": 3 / 6}  # "ok" and "ok" again are one response
    in_round = oracle.for_round([])
    in_round.compare(candidates({"q": ["ok"]}))
    assert in_round.measured() == {"violations": 0}
    assert oracle.measured() == {"violations": 3 / 6}


def test_violations_do_not_depend_on_which_pairs_are_asked_about():
    """Pairs are shown in alphabetical order, so that "bad" is always the row."""
    oracle, asked = Constrained(StyleGame(), [RULE]), candidates({"q": ["ok", "bad", "okk"]})
    pairs = AskedPairs(asked)
    for number in range(len(pairs.unique)):
        oracle.compare(*pairs.alone([number]))
    assert oracle.measured() == {"violations": pytest.approx(1 / 3)}


class Broken(Scorer):
    def __init__(self, value):
        self.value = value

    def score(self, candidates):
        return self.value


@pytest.mark.parametrize(
    ("scores", "rule"),
    [
        (torch.tensor([[0.0, 0.0, math.nan, 0.0]]), "Broken scored candidate 2 at prompt p0 with nan"),
        (torch.tensor([[0.0, 0.0, 0.0, math.inf]]), "with inf"),
        (torch.zeros(1, 3), r"scores of shape \(1, 3\); they must be \[prompts, candidates\] = \(1, 4\)"),
        (None, "returned no scores"),
    ],
)
def test_constraints_that_misbehave(scores, rule):
    with pytest.raises(OracleError, match=rule):
        Constrained(JUDGE, [Constraint(Broken(scores))]).compare(candidates(SAY))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"constraints": []}, "constraints is empty"),
        ({"mode": "hard"}, "mode must be veto, lexicographic or lagrangian, got 'hard'"),
        ({"multiplier": -1}, "multiplier must be 0 or more"),
        ({"step": math.inf}, "step must be 0 or more"),
        ({"allowed": 2}, r"allowed is a share of the responses, in \[0, 1\]"),
        ({"allowed": math.nan}, r"allowed is a share of the responses, in \[0, 1\]"),
    ],
)
def test_settings_that_cannot_be(settings, rule):
    with pytest.raises(ConfigError, match=rule):
        Constrained(**{"oracle": JUDGE, "constraints": [RULE], **settings})


def test_rules_that_cannot_be():
    with pytest.raises(ConfigError, match="gives none of them a score"):
        Constraint(StyleGame())
    with pytest.raises(ConfigError, match="at_least must be a number"):
        Constraint(Forbidden("bad"), at_least=math.nan)
    with pytest.raises(ConfigError, match="not a regular expression"):
        Forbidden("(")
    with pytest.raises(ConfigError, match="every response breaks it"):
        Forbidden("x*")
