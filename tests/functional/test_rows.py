"""Rows, and how they are split within a token budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo_lightning.functional.rows import TokenRows, split_evenly, split_prompts, split_rows


@pytest.mark.parametrize(
    ("prompts", "responses", "words"),
    [([[1]], [], "1 prompts and 0 responses"), ([], [], "there must be a row"), ([[1], []], [[2], [2]], "row 1")],
)
def test_impossible_rows_are_refused(prompts, responses, words):
    with pytest.raises(ValueError, match=words):
        TokenRows(prompt_ids=prompts, response_ids=responses)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_split_rows_is_a_partition_within_the_budget(lengths, budget):
    batches = split_rows(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    longest_first = [lengths[row] for batch in batches for row in batch]
    assert longest_first == sorted(lengths, reverse=True)


def test_split_rows_fills_batches_with_neighbours_in_length():
    assert split_rows([2, 9, 3, 8], max_padded_tokens=18) == [[1, 3], [2, 0]]
    assert split_rows([4, 4, 4], max_padded_tokens=8) == [[0, 1], [2]], "equal lengths keep their order"
    assert split_rows([30, 2], max_padded_tokens=8) == [[0], [1]], "a row over the budget is alone"


PROMPTS = st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(0, 40), min_size=1, max_size=5)), max_size=30)


@given(PROMPTS, st.integers(1, 300), st.booleans())
def test_split_prompts_is_a_partition_within_the_budget(lengths, budget, packed):
    packs = split_prompts(lengths, budget, packed=packed)
    assert sorted(prompt for pack in packs for prompt in pack) == list(range(len(lengths)))
    for pack in packs:
        members = [lengths[index] for index in pack]
        tokens = sum(prompt + sum(responses) for prompt, responses in members)
        longest = max(prompt + max(responses) for prompt, responses in members)
        num_rows = sum(len(responses) for _, responses in members)
        assert len(pack) == 1 or (tokens if packed else num_rows * longest) <= budget


@given(PROMPTS)
def test_no_two_packs_would_fit_into_one(lengths):
    sizes = [prompt + sum(responses) for prompt, responses in lengths]
    packs = split_prompts(lengths, 200, packed=True)
    lightest = sorted(sum(sizes[index] for index in pack) for pack in packs)[:2]
    assert len(packs) < 2 or sum(lightest) > 200


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 8))
def test_ranks_differ_by_at_most_one_thing(sizes, num_parts):
    parts = split_evenly(sizes, num_parts)
    assert len(parts) == num_parts
    assert sorted(index for part in parts for index in part) == list(range(len(sizes)))
    totals = [sum(sizes[index] for index in part) for part in parts]
    assert max(totals) - min(totals) <= max(sizes, default=0)


def test_neighbours_with_equal_prompts_share_it():
    rows = TokenRows(prompt_ids=[[1], (1,), [2, 3], [1]], response_ids=[[5], [6, 7], [], [8]])
    assert rows.prompt_spans == [range(0, 2), range(2, 3), range(3, 4)]
    assert rows.prompt_lengths == [(1, [1, 2]), (2, [0]), (1, [1])]
    assert rows.at([2, 0]).prompt_ids == [[2, 3], [1]]
