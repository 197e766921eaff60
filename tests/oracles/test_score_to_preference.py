import math

import pytest
import torch

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import Scorer, ScoreToPreference, TargetLength

from .examples import candidates


class Fixed(Scorer):
    def __init__(self, scores_BK):
        self.scores_BK = torch.tensor(scores_BK)

    def score(self, candidates):
        return self.scores_BK


THREE = candidates({"a?": ["x", "yy", "zzz"]})


def test_a_score_is_a_log_odds():
    matrix = ScoreToPreference(Fixed([[0.0, math.log(3), -math.log(3)]]), scale=2.0).compare(THREE)
    # sigmoid(2 log 3) = 9 / 10, sigmoid(4 log 3) = 81 / 82.
    expected = torch.tensor([[1 / 2, 1 / 10, 9 / 10], [9 / 10, 1 / 2, 81 / 82], [1 / 10, 1 / 82, 1 / 2]])
    torch.testing.assert_close(matrix.probs_BKJ[0], expected)
    torch.testing.assert_close(matrix.scores_BK, torch.tensor([[0.0, math.log(3), -math.log(3)]]))


def test_scores_of_missing_responses_are_nan_and_not_judged():
    matrix = ScoreToPreference(TargetLength(2)).compare(candidates({"a?": ["x", "yy", "zzzzz"], "b?": ["x"]}))
    assert matrix.scores_BK[0].tolist() == [-1.0, 0.0, -3.0]
    assert float(matrix.scores_BK[1, 0]) == -1.0
    assert bool(matrix.scores_BK[1, 1:].isnan().all())
    assert matrix.judged_BKJ[1].sum() == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_names_prompt_and_candidate(bad):
    with pytest.raises(OracleError, match=r"candidate 2 at prompt p0"):
        ScoreToPreference(Fixed([[0.0, 1.0, bad]])).compare(THREE)


def test_a_wrong_shape_is_named():
    with pytest.raises(OracleError, match=r"\(1, 3\), got \(1, 2\)"):
        ScoreToPreference(Fixed([[0.0, 1.0]])).compare(THREE)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_the_scale_is_positive(scale):
    with pytest.raises(ConfigError, match="scale"):
        ScoreToPreference(TargetLength(), scale=scale)


def test_the_target_is_positive():
    with pytest.raises(ConfigError, match="num_tokens"):
        TargetLength(0)


def test_the_name_tells_scorers_apart():
    assert ScoreToPreference(TargetLength()).name != ScoreToPreference(Fixed([[0.0]])).name
