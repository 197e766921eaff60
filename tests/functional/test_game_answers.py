"""Nash, Borda and Condorcet on games whose answers are known."""

import numpy as np
import pytest

from sppo_lightning.functional.game_answers import game_answers
from sppo_lightning.functional.game_zoo import bradley_terry, rps


def test_a_transitive_game_has_one_answer():
    probs = bradley_terry(5, 0)
    found = game_answers(probs)
    best = int(probs.mean(axis=1).argmax())
    assert (found.condorcet, found.borda) == (best, (best,))
    assert found.nash_N[best] == pytest.approx(1)
    assert (found.borda_gap, found.distance, found.nash_responses) == (0, 0, pytest.approx(1))


def test_rock_paper_scissors_has_a_mixture_that_borda_misses():
    found = game_answers(rps(0.9, 0.7, 0.8))
    assert found.nash_N == pytest.approx([2 / 9, 3 / 9, 4 / 9])
    assert found.condorcet is None
    assert found.borda == (0, 2)  # mean win rates (.9 + .2) / 2, (.1 + .7) / 2, (.3 + .8) / 2
    assert found.borda_gap == pytest.approx(2 * ((0.8 + 0.5) / 2 - 0.5))
    assert found.distance == pytest.approx(1 / 3)


def test_the_borda_winner_may_lose_to_the_condorcet_winner():
    # 0 beats both narrowly; 1 beats 2 by far.
    probs = np.array([[0.5, 0.51, 0.51], [0.49, 0.5, 1.0], [0.49, 0.0, 0.5]])
    found = game_answers(probs)
    assert (found.condorcet, found.borda) == (0, (1,))
    assert found.distance == pytest.approx(1)
    assert found.borda_gap == pytest.approx(0.02)


def test_ties_have_several_answers_and_no_distance():
    found = game_answers(np.full((3, 3), 0.5))
    assert found.borda == (0, 1, 2)
    assert not found.nash_unique
    assert (found.borda_gap, found.distance) == (0, 0)
