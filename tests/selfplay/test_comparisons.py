"""What a reward model learns from: every verdict of a round, once, with the tokens it was about."""

import math

import pytest

from sppo_lightning.errors import RunFolderError
from sppo_lightning.selfplay.comparisons import read_comparisons
from sppo_lightning.selfplay.opponents import History

from .conftest import encode
from .test_metrics import Sparse


def verdict(row, column):
    """What TokenGame says of two responses."""
    return 0.5 + 0.4 * math.sin(sum(row) - sum(column))


def test_every_pair_of_candidates_once(play, prompts):
    found = read_comparisons(play().folder, "TokenGame")
    assert [entry.prompt_id for entry in found] == [prompt.prompt_id for prompt in prompts]
    for entry, prompt in zip(found, prompts, strict=True):
        assert entry.prompt_ids == encode(prompt)
        assert entry.pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        for (i, j), prob in zip(entry.pairs, entry.probs, strict=True):
            assert prob == pytest.approx(verdict(entry.response_ids[i], entry.response_ids[j]))


def test_comparisons_with_other_opponents_and_further_draws(play):
    found = read_comparisons(play(round_index=1, opponent=History(num_policies=2), log_z_draws=3).folder, "TokenGame")
    by_number = {len(entry.pairs): entry for entry in found if entry.prompt_id == "p2"}
    assert by_number.keys() == {4 * 3 // 2, 4 * 2, 3 * 4}, "each other, two of pi_{t-1}, and three draws of pi_t"
    for entry in by_number.values():
        for (i, j), prob in zip(entry.pairs, entry.probs, strict=True):
            assert prob == pytest.approx(verdict(entry.response_ids[i], entry.response_ids[j]))


def test_what_was_not_judged_is_no_comparison(play):
    for entry in read_comparisons(play(oracle=Sparse()).folder, "Sparse"):
        assert entry.pairs == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_a_lost_file_is_named(play):
    folder = play().folder
    next(folder.path.glob("preferences/TokenGame/self/00001-*")).unlink()
    with pytest.raises(RunFolderError, match=r"preferences/TokenGame/self: chunk 00001 is missing"):
        read_comparisons(folder, "TokenGame")
