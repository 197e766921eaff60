import pytest

from sppo_lightning.functional.text_diversity import cross_bleu, self_bleu


def test_equal_answers_are_alike_and_answers_without_a_shared_pair_of_words_are_not():
    same, other = ["the price is fair"] * 3, ["one two three", "four five six", "seven eight nine"]
    assert self_bleu([same, other]) == pytest.approx([1, 0])


def test_bleu_2_by_hand():
    # Both answers have three words, two of which and one of two pairs stand in the other: sqrt(2/3 * 1/2).
    assert self_bleu([["the old price", "the old house"]]) == pytest.approx([(2 / 3 * 1 / 2) ** 0.5])


def test_two_words_are_enough():
    assert self_bleu([["Yes.", "Yes."]]) == pytest.approx([1])


def test_a_single_answer_or_prompt_is_like_nothing():
    assert self_bleu([["alone here"]]) == [0]
    assert cross_bleu([["alone here", "alone here"]]) == [0]


def test_cross_bleu_compares_prompts_and_not_the_answers_to_one():
    bland = [["It depends on many things."] * 2] * 3
    sharp = [["the red lantern glows"] * 2, ["a blue boat sails"] * 2, ["six green hats fly"] * 2]
    assert cross_bleu(bland) == pytest.approx([1, 1, 1])
    assert cross_bleu(sharp) == [0, 0, 0]
    assert self_bleu(sharp) == pytest.approx([1, 1, 1])


def test_empty_texts_are_no_error():
    assert self_bleu([["", ""]]) == [0]
    assert cross_bleu([[""], [""]]) == [0, 0]
