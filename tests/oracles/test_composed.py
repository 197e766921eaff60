"""Oracles made of others: ensembles, noise and cycles on top of a judge."""

import math

import pytest
import torch

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import (
    Constrained,
    Constraint,
    Ensemble,
    Intransitive,
    Noisy,
    PreferenceOracle,
    ScoreToPreference,
    Shuffled,
    StyleGame,
    TargetLength,
    Verifier,
)
from sppo_lightning.types import PreferenceMatrix

from .examples import candidates

TEXTS = {"q": ["Briefly, a.", "Well, b.", "Imagine: c.", "no"]}


class Remembering(PreferenceOracle):
    """Judges by another oracle what it has not seen yet, pair by pair, and counts what it has to ask."""

    def __init__(self, oracle, unjudged=()):
        self.oracle, self.unjudged = oracle, set(unjudged)
        self.known, self.asked, self.closed = {}, 0, False

    def compare(self, candidates, opponents=None):
        matrix = self.oracle.compare(candidates, opponents)
        for b, row in enumerate(candidates.texts):
            for i, first in enumerate(row):
                for j, second in enumerate((opponents or candidates).texts[b]):
                    self.asked += (first, second) not in self.known
                    matrix.probs_BKJ[b, i, j] = self.known.setdefault((first, second), matrix.probs_BKJ[b, i, j])
                    if {first, second} == self.unjudged:
                        matrix.judged_BKJ[b, i, j] = False
        return matrix

    def measured(self):
        return {"asked": float(self.asked)}

    def close(self):
        self.closed = True


def test_an_ensemble_is_the_weighted_mean():
    style, quality = StyleGame(quality_weight=0), StyleGame(quality_weight=1)
    both = Ensemble({"style": style, "quality": quality}, {"style": 3, "quality": 1})
    responses = candidates(TEXTS)
    expected = 0.75 * style.compare(responses).probs_BKJ + 0.25 * quality.compare(responses).probs_BKJ
    torch.testing.assert_close(both.compare(responses).probs_BKJ, expected)
    assert float(expected[0, 0, 1]) != 0.5


def test_other_weights_ask_no_judge_again():
    style, length = Remembering(StyleGame()), Remembering(ScoreToPreference(TargetLength(3)))
    judges = {"style": style, "length": length}
    first = Ensemble(judges, {"style": 1, "length": 1}).compare(candidates(TEXTS))
    asked = style.asked, length.asked
    second = Ensemble(judges, {"style": 9, "length": 1}).compare(candidates(TEXTS))
    assert (style.asked, length.asked) == asked == (16, 16)
    assert not torch.equal(first.probs_BKJ, second.probs_BKJ)


def test_a_judge_of_weight_zero_is_not_asked():
    unwanted = Remembering(StyleGame())
    Ensemble({"a": StyleGame(), "b": unwanted}, {"a": 1, "b": 0}).compare(candidates(TEXTS))
    assert unwanted.asked == 0


def test_a_pair_counts_where_every_judge_has_judged_it():
    partly = Remembering(StyleGame(), unjudged=("no", "Well, b."))
    matrix = Ensemble({"a": StyleGame(), "b": partly}).compare(candidates(TEXTS))
    assert matrix.judged_BKJ.sum() == 14
    assert not matrix.judged_BKJ[0, 1, 3]
    assert not matrix.judged_BKJ[0, 3, 1]


@pytest.mark.parametrize(
    ("oracles", "weights", "rule"),
    [
        ({}, None, "is empty"),
        ({"a": StyleGame()}, {}, "there is none for a"),
        ({"a": StyleGame()}, {"a": 1, "b": 1}, "there is some for b"),
        ({"a": StyleGame()}, {"a": 0}, "positive sum"),
        ({"a": StyleGame(), "b": StyleGame()}, {"a": 2, "b": -1}, "positive sum"),
        ({"a": StyleGame()}, {"a": math.nan}, "positive sum"),
        ({"a/b": StyleGame()}, None, "the name 'a/b'"),
    ],
)
def test_ensembles_that_cannot_be(oracles, weights, rule):
    with pytest.raises(ConfigError, match=rule):
        Ensemble(oracles, weights)


def test_a_member_of_another_shape_is_named():
    class Broken(PreferenceOracle):
        def compare(self, candidates, opponents=None):
            return PreferenceMatrix(probs_BKJ=torch.full((1, 2, 2), 0.5))

    with pytest.raises(OracleError, match=r"Ensemble: broken returned preferences of shape \(1, 2, 2\)"):
        Ensemble({"good": StyleGame(), "broken": Broken()}).compare(candidates(TEXTS))


def composed(judge):
    rule = Constraint(Verifier("answer", match="regex"), at_least=1)
    return [
        Ensemble({"a": judge, "b": StyleGame()}),
        Noisy(judge),
        Intransitive(judge),
        Shuffled(judge),
        Constrained(judge, [rule]),
        Noisy(Ensemble({"a": Intransitive(judge)})),
    ]


@pytest.mark.parametrize("place", range(6))
def test_members_can_be_exchanged_and_are_closed(place):
    """What stands around a judge (a cache, a budget) is put in the judge's place, wherever that is."""
    first, second = Remembering(StyleGame()), Remembering(StyleGame())

    def exchange(oracle):
        if oracle is first:
            return second
        members = getattr(oracle, "members", None)
        return oracle.asking({name: exchange(member) for name, member in members.items()}) if members else oracle

    oracle = composed(first)[place]
    other = exchange(oracle)
    responses = candidates(TEXTS)
    assert torch.equal(other.compare(responses).probs_BKJ, oracle.compare(responses).probs_BKJ)
    assert first.asked == second.asked == 16  # each by its own composition
    assert 16.0 in other.measured().values()
    other.close()
    assert (first.closed, second.closed) == (False, True)


def test_noise_flips_its_share_of_pairs_and_always_the_same_ones():
    texts = {f"q{b}": [f"Briefly, {b} {i}" for i in range(5)] + ["Well, b."] for b in range(40)}
    clean = StyleGame(quality_weight=0).compare(candidates(texts))
    noisy = Noisy(StyleGame(quality_weight=0), flip=0.3, seed=1).compare(candidates(texts))
    pairs = clean.probs_BKJ[:, :5, 5] != noisy.probs_BKJ[:, :5, 5]
    assert 0.2 < float(pairs.float().mean()) < 0.4  # of 200: more than 3 standard deviations away
    torch.testing.assert_close(noisy.probs_BKJ[:, :5, 5][pairs], 1 - clean.probs_BKJ[:, :5, 5][pairs])
    other = Noisy(StyleGame(quality_weight=0), flip=0.3, seed=2).compare(candidates(texts))
    assert not torch.equal(noisy.probs_BKJ, other.probs_BKJ)


@pytest.mark.parametrize(("temperature", "expected"), [(1, 0.9), (2, 0.75), (0.5, 81 / 82)])
def test_temperature_divides_the_log_odds(temperature, expected):
    # Odds 9 to 1: 3 to 1 at temperature 2, 81 to 1 at a half.
    oracle = Noisy(StyleGame(quality_weight=0), flip=0, temperature=temperature)
    assert float(oracle.compare(candidates(TEXTS)).probs_BKJ[0, 0, 1]) == pytest.approx(expected, abs=1e-6)


def test_certain_verdicts_stay_certain_at_any_temperature():
    oracle = Noisy(StyleGame(cycle=(1, 0, 1), quality_weight=0), flip=0, temperature=1e-4)
    assert oracle.compare(candidates(TEXTS)).probs_BKJ[0, 0].tolist()[:3] == [0.5, 1, 0]


def test_the_cycle_is_a_cycle():
    oracle = Intransitive(StyleGame(), strength=1)
    responses = candidates({"q": [f"text {i}" for i in range(12)]})
    camps = [oracle.camp(responses.prompts[0], text) for text in responses.texts[0]]
    assert set(camps) == {0, 1, 2}
    probs = oracle.compare(responses).probs_BKJ[0]
    for i, ours in enumerate(camps):
        for j, theirs in enumerate(camps):
            assert float(probs[i, j]) == {0: 0.5, 1: 1.0, 2: 0.0}[(theirs - ours) % 3]


def test_strength_zero_changes_nothing():
    responses = candidates(TEXTS)
    for oracle in (Intransitive(StyleGame(), strength=0), Noisy(StyleGame(), flip=0)):
        torch.testing.assert_close(oracle.compare(responses).probs_BKJ, StyleGame().compare(responses).probs_BKJ)


def test_the_stressed_truth_is_not_passed_on_by_scores():
    for oracle in (Noisy(Verifier()), Intransitive(Verifier())):
        assert not oracle.gives_scores
        assert oracle.compare(candidates(TEXTS, answer="no")).scores_BK is None


@pytest.mark.parametrize("settings", [{"flip": -0.1}, {"flip": 1.1}, {"temperature": 0}, {"temperature": math.nan}])
def test_noise_that_cannot_be(settings):
    with pytest.raises(ConfigError, match="Noisy: "):
        Noisy(StyleGame(), **settings)


def test_strengths_that_cannot_be():
    with pytest.raises(ConfigError, match="Intransitive: strength"):
        Intransitive(StyleGame(), strength=2)
