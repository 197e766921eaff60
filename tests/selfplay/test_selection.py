"""What `truncated` does, on a prompt where it can be worked out by hand."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from sppo_lightning.selfplay.pairing import All
from sppo_lightning.selfplay.players import Truncated
from sppo_lightning.selfplay.selection import choose_targets
from sppo_lightning.types import PreferenceMatrix

# Three candidates, the last of them truncated; two responses of an older policy, the first of them truncated.
OWN = PreferenceMatrix(
    probs_BKJ=torch.tensor([[[0.5, 0.6, 0.9], [0.4, 0.5, 0.7], [0.1, 0.3, 0.5]]]),
    scores_BK=torch.tensor([[2.0, 1.0, -6.0]]),
)
OLDER = PreferenceMatrix(probs_BKJ=torch.tensor([[[1.0, 0.2], [0.9, 0.4], [0.0, 0.0]]]), self_play=False)
FINISHED = [torch.tensor([True, True, False])]
OLDER_FINISHED = [torch.tensor([False, True])]


def choose(truncated, weights, matrices=None, finished=None):
    return choose_targets(
        matrices or {"previous": OWN, "history/1": OLDER},
        finished or FINISHED,
        {"previous": finished or FINISHED, "history/1": OLDER_FINISHED},
        weights,
        pairing=All(),
        truncated=truncated,
        self_comparison=False,
    )


SELF_PLAY = {
    # rows, win rates, scores
    "keep": ((0, 1, 2), [0.75, 0.55, 0.2], [4.5, 3.0, -7.5]),
    "mask": ((0, 1), [0.75, 0.55, 0.2], [4.5, 3.0, -7.5]),
    "drop": ((0, 1), [0.6, 0.4, math.nan], [1.0, -1.0, math.nan]),
}
MIXTURE = {
    # against the older policy: 0.6, 0.65, 0.0; without its truncated response 0.2, 0.4
    "keep": [0.675, 0.6, 0.1],
    "mask": [0.675, 0.6, 0.1],
    "drop": [0.4, 0.4, math.nan],
}


def test_every_choice_is_tested():
    assert set(SELF_PLAY) == set(MIXTURE) == set(get_args(Truncated))


@pytest.mark.parametrize("truncated", SELF_PLAY)
def test_truncated_in_self_play(truncated):
    rows, rates, scores = SELF_PLAY[truncated]
    (targets,), scores_BK = choose(truncated, {"previous": 1.0})
    assert targets.rows == rows
    assert all(set(pair) <= set(rows) for pair in targets.pairs)
    assert targets.win_rate_K.tolist() == pytest.approx(rates, nan_ok=True)
    assert scores_BK[0].tolist() == pytest.approx(scores, nan_ok=True)


@pytest.mark.parametrize("truncated", MIXTURE)
def test_truncated_against_a_mixture(truncated):
    (targets,), _ = choose(truncated, {"previous": 0.5, "history/1": 0.5})
    assert targets.win_rate_K.tolist() == pytest.approx(MIXTURE[truncated], nan_ok=True)


def test_prompts_may_have_different_numbers_of_responses():
    two = PreferenceMatrix(
        probs_BKJ=torch.stack([OWN.probs_BKJ[0], torch.tensor([[0.5, 0.8, 0.5], [0.2, 0.5, 0.5], [0.5] * 3])]),
        judged_BKJ=torch.stack([torch.ones(3, 3), torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0]])]).bool(),
    )
    finished = [torch.tensor([True, True, True]), torch.tensor([True, True])]
    for truncated in SELF_PLAY:
        (three, pair), scores_BK = choose(truncated, {"previous": 1.0}, {"previous": two}, finished)
        assert (len(three.win_rate_K), three.rows) == (3, (0, 1, 2))
        assert (pair.win_rate_K.tolist(), pair.rows) == ([pytest.approx(0.8), pytest.approx(0.2)], (0, 1))
        assert pair.pairs == ((0, 1),)
        assert scores_BK is None


def test_without_self_play_the_higher_win_rate_is_chosen_and_nobody_knows_by_how_much():
    (targets,), scores_BK = choose("keep", {"history/1": 1.0}, {"history/1": OLDER})
    assert targets.win_rate_K.tolist() == pytest.approx([0.6, 0.65, 0.0])
    assert set(targets.pairs) == {(1, 0), (1, 2), (0, 2)}
    assert all(math.isnan(prob) for prob in targets.pair_probs)
    assert scores_BK is None


def test_a_prompt_without_verdicts_against_one_opponent_is_not_trained_on():
    silent = replace(OLDER, judged_BKJ=torch.zeros(1, 3, 2, dtype=torch.bool))
    weights = {"previous": 0.5, "history/1": 0.5}
    assert choose("keep", weights)[0][0].rows == (0, 1, 2)
    assert choose("keep", weights, {"previous": OWN, "history/1": silent})[0][0].rows == ()
