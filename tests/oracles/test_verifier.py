import pytest
import torch

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import Shuffled, Verifier

from .examples import candidates


def scores(oracle, answer, *texts):
    return oracle.compare(candidates({"3 + 4 = ?": list(texts)}, answer=answer)).scores_BK[0].tolist()


def test_right_beats_wrong_and_like_ties_with_like():
    matrix = Verifier().compare(candidates({"3 + 4 = ?": ["7", "8", " 7\n"]}, answer=7))
    expected = torch.tensor([[0.5, 1.0, 0.5], [0.0, 0.5, 0.0], [0.5, 1.0, 0.5]])
    assert torch.equal(matrix.probs_BKJ[0], expected)
    assert matrix.scores_BK[0].tolist() == [1, 0, 1]


def test_against_other_responses():
    ours, theirs = ({"3 + 4 = ?": texts} for texts in (["7", "8"], ["8", "9", "7"]))
    matrix = Verifier().compare(candidates(ours, answer="7"), candidates(theirs, answer="7"))
    assert matrix.probs_BKJ[0].tolist() == [[1, 1, 0.5], [0.5, 0.5, 0]]


def test_the_last_match_is_the_answer():
    oracle = Verifier(extract=r"answer is (-?\d+)")
    texts = ["the answer is 5, no, the answer is 7.", "the answer is 7, no, the answer is 5.", "7", "answer is 77"]
    assert scores(oracle, "7", *texts) == [1, 0, 0, 0]


def test_without_a_group_all_of_the_match_is_extracted():
    assert scores(Verifier(extract=r"\d+"), "7", "it is 7.", "it is 17") == [1, 0]


def test_an_exact_answer_is_no_regular_expression():
    assert scores(Verifier(), "a.c (", "a.c (", "abc (") == [1, 0]


def test_a_regular_expression_matches_all_of_it_or_not():
    assert scores(Verifier(match="regex"), "yes|sure", "yes", "sure", "yes, no", "") == [1, 1, 0, 0]


def test_a_response_without_an_answer_is_wrong_whatever_would_be_right():
    assert scores(Verifier(match="regex", extract="x(.*)"), ".*", "xyz", "nothing") == [1, 0]


@pytest.mark.parametrize(
    ("settings", "metadata", "rule"),
    [
        (
            {},
            {"solution": "7", "source": "gsm"},
            "p0 has no field 'answer', it has solution, source. .*--data.oracle.an",
        ),
        ({"answer": "target"}, {"answer": None}, "p0 has no field 'target'"),
        ({"match": "regex"}, {"answer": "(7"}, r"the answer '\(7' of prompt p0 is not a regular expression"),
    ],
)
def test_prompts_that_cannot_be_verified_are_refused(settings, metadata, rule):
    responses = candidates({"3 + 4 = ?": ["7"]}, **metadata)
    for ask in (Verifier(**settings), Shuffled(Verifier(**settings))):
        with pytest.raises(OracleError, match=rule):
            ask.check_prompts(responses.prompts)
    with pytest.raises(OracleError, match=rule):
        Verifier(**settings).compare(responses)


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match=r"data\.oracle\.extract: '\(' is not a regular expression"):
        Verifier(extract="(")
    with pytest.raises(ConfigError, match=r"data\.oracle\.match must be exact, regex or unit_test, got 'equal'"):
        Verifier(match="equal")
