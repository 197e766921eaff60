import pytest

from sppo_lightning.functional.text_signs import is_empty, is_refusal, repetition


@pytest.mark.parametrize("text", ["", " \n", "...", "?!", "\u2026 \u3002", "**"])
def test_empty(text):
    assert is_empty(text)


@pytest.mark.parametrize("text", ["a", "7.", "\u4f60\u597d", "\u0434\u0430"])
def test_any_letter_or_digit_is_something(text):
    assert not is_empty(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I cannot assist with this request.",
        "I am very sorry, I am unable to do so.",
        "As an AI language model, I have no opinion.",
        "Unfortunately, I cannot say.",
        "Sorry, I won't do that.",
        "I apologise, but I must decline.",
        "  I can not answer.",
        "It would not be appropriate to answer.",
    ],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I cannotate the genome as follows",
        "The lantern is fine. I cannot say more.",
        "Sorry is a word of four strokes.",
        "I can help with that.",
        "As an airline pilot, you fly.",
        "",
    ],
)
def test_what_only_sounds_like_a_refusal(text):
    assert not is_refusal(text)


def test_repetition_counts_ngrams_seen_before():
    # a b c d e has 2 distinct 4-grams; "a b" six times has 12 - 3 = 9 4-grams, 2 of them distinct.
    assert repetition("a b c d e") == 0
    assert repetition("a b " * 6) == pytest.approx(1 - 2 / 9)
    assert repetition("a b c") == repetition("") == 0
