"""What every preference oracle promises. A new oracle is found by itself."""

import pytest
import torch

from sppo_lightning.errors import OracleError
from sppo_lightning.oracles.response_judge import ResponseJudge

from .examples import EXAMPLES, NOT_EQUIVARIANT, candidates, concrete_oracles

KETTLE = "Is the price of the kettle fair?"
BRIDGE = "Tell me about the history of the bridge."
ANSWERS = {
    KETTLE: [
        "Briefly, the price of the kettle is fair.",
        "Well, you know, it is what it is",
        "no",
        "Imagine: a kettle.",
    ],
    BRIDGE: ["Well, the history of the bridge is long.", "Imagine: a bridge", "Briefly, that is long.", "History."],
}
RAGGED = {KETTLE: ANSWERS[KETTLE][:3], BRIDGE: ANSWERS[BRIDGE][:1], "?": ["Briefly, yes.", "no"]}
TOO_LONG = "kettle price " * 800  # for a model with few positions
STRANGE = [
    "",
    " ",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "the kettle \u0000\u0007\u001b[31m\u202e\ufeff",
    TOO_LONG,
    "\u706f\u53f0\u306e\u6b74\u53f2\u3002",
]

every_oracle = pytest.mark.parametrize("oracle_class", concrete_oracles(), ids=lambda oracle: oracle.__name__)


@pytest.fixture
def oracle(oracle_class, tmp_path):
    if oracle_class.__name__ not in EXAMPLES:
        pytest.fail(
            f"tests/oracles/examples.py: add {oracle_class.__name__} to EXAMPLES, so that its contract is tested"
        )
    oracle = EXAMPLES[oracle_class.__name__](tmp_path)
    yield oracle
    oracle.close()


def assert_valid_self_play(matrix):
    judged, probs = matrix.judged_BKJ, matrix.probs_BKJ
    assert torch.equal(judged, judged.transpose(1, 2))
    assert bool(((probs[judged] >= 0) & (probs[judged] <= 1)).all())
    asymmetry = (probs + probs.transpose(1, 2) - 1).abs()
    assert asymmetry[judged].max() < 1e-4
    diagonal = torch.eye(probs.shape[1], dtype=torch.bool) & judged
    assert bool((probs[diagonal] == 0.5).all())


def test_there_are_oracles():
    assert {"StyleGame", "ScoreToPreference", "Shuffled"} <= {oracle.__name__ for oracle in concrete_oracles()}


def test_no_example_is_left_over():
    assert set(EXAMPLES) <= {oracle.__name__ for oracle in concrete_oracles()}


@every_oracle
def test_self_play_is_a_preference_matrix(oracle):
    matrix = oracle.compare(candidates(ANSWERS))
    assert matrix.self_play
    assert matrix.probs_BKJ.shape == (2, 4, 4)
    assert bool(matrix.judged_BKJ.all())
    assert_valid_self_play(matrix)


@every_oracle
def test_scores_are_given_where_they_are_promised(oracle):
    assert (oracle.compare(candidates(ANSWERS)).scores_BK is not None) == oracle.gives_scores


@every_oracle
def test_the_same_question_gets_the_same_answer(oracle):
    first, second = oracle.compare(candidates(ANSWERS)), oracle.compare(candidates(ANSWERS))
    assert torch.equal(first.probs_BKJ, second.probs_BKJ)


@every_oracle
def test_candidates_may_come_in_any_order(oracle, oracle_class):
    order = [2, 0, 3, 1]
    shuffled = oracle.compare(candidates({p: [row[i] for i in order] for p, row in ANSWERS.items()}))
    assert_valid_self_play(shuffled)
    if oracle_class.__name__ not in NOT_EQUIVARIANT:
        straight = oracle.compare(candidates(ANSWERS)).probs_BKJ
        torch.testing.assert_close(shuffled.probs_BKJ, straight[:, order][:, :, order])


@every_oracle
def test_missing_responses_are_not_judged(oracle):
    ragged = candidates(RAGGED)
    matrix = oracle.compare(ragged)
    assert matrix.probs_BKJ.shape == (3, 3, 3)
    for b, K in enumerate(ragged.num_candidates):
        exists = torch.zeros(3, 3, dtype=torch.bool)
        exists[:K, :K] = True
        assert torch.equal(matrix.judged_BKJ[b], exists)
    assert_valid_self_play(matrix)


@every_oracle
def test_a_prompt_is_judged_as_if_it_were_alone(oracle):
    together = oracle.compare(candidates({KETTLE: ANSWERS[KETTLE], BRIDGE: ANSWERS[BRIDGE][:2]}))
    alone = oracle.compare(candidates({KETTLE: ANSWERS[KETTLE]}))
    torch.testing.assert_close(together.probs_BKJ[:1], alone.probs_BKJ)


@every_oracle
def test_opponents_stand_in_the_columns(oracle, oracle_class):
    ours = candidates({p: row[:2] for p, row in ANSWERS.items()})
    theirs = candidates({p: row[1:] for p, row in ANSWERS.items()})
    matrix = oracle.compare(ours, theirs)
    assert not matrix.self_play
    assert matrix.probs_BKJ.shape == (2, 2, 3)
    assert bool(matrix.judged_BKJ.all())
    # Candidate 1 and opponent 0 are the same text.
    assert matrix.probs_BKJ[:, 1, 0].tolist() == [0.5, 0.5]
    if oracle_class.__name__ not in NOT_EQUIVARIANT:
        from_the_other_side = oracle.compare(theirs, ours).probs_BKJ.transpose(1, 2)
        torch.testing.assert_close(matrix.probs_BKJ, 1 - from_the_other_side, atol=1e-4, rtol=0)


@every_oracle
def test_opponents_of_other_numbers(oracle):
    ours, theirs = candidates(RAGGED), candidates({p: row[:2] for p, row in RAGGED.items()})
    matrix = oracle.compare(ours, theirs)
    assert matrix.judged_BKJ.sum(dim=(1, 2)).tolist() == [3 * 2, 1 * 1, 2 * 2]


@every_oracle
def test_opponents_must_answer_the_same_prompts(oracle):
    with pytest.raises(OracleError, match="same prompts"):
        oracle.compare(candidates(ANSWERS), candidates({KETTLE: ["yes"]}))


@every_oracle
def test_equal_responses_are_equally_good(oracle):
    matrix = oracle.compare(candidates({KETTLE: ["Briefly, no.", ANSWERS[KETTLE][0], "Briefly, no."]}))
    assert float(matrix.probs_BKJ[0, 0, 2]) == float(matrix.probs_BKJ[0, 2, 0]) == 0.5
    assert_valid_self_play(matrix)


@every_oracle
@pytest.mark.parametrize("prompt", [KETTLE, *STRANGE])
def test_any_text_can_be_judged(oracle, prompt):
    matrix = oracle.compare(candidates({prompt: STRANGE}))
    if isinstance(oracle, ResponseJudge) and prompt == TOO_LONG:  # it could read nothing of the response
        assert not bool(matrix.judged_BKJ.any())
        return
    assert bool(matrix.judged_BKJ.all())
    assert_valid_self_play(matrix)


@every_oracle
def test_an_oracle_can_be_used_again_after_close(oracle):
    before = oracle.compare(candidates(ANSWERS)).probs_BKJ
    oracle.close()
    assert torch.equal(oracle.compare(candidates(ANSWERS)).probs_BKJ, before)
