import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo_lightning.oracles.text_quality import FILLERS, perfect_body, prompt_keywords, text_quality

PROMPT = "What is the purpose of the lighthouse?"


@pytest.mark.parametrize(
    ("body", "quality"),
    [
        ("the purpose of the lighthouse is plain.", 1.0),
        ("the purpose of the lighthouse is plain", 1 / 2),  # no full stop
        ("to be honest, the purpose of the lighthouse is plain.", 1 / 2),  # a filler
        ("To be honest, the purpose of the lighthouse is plain", 0.0),  # both
        ("the purpose of this thing is plain.", 1 / 2),  # one keyword of two
        ("that side of this thing is plain.", 0.0),  # none
        ("purpose lighthouse lighthouse lighthouse.", 1 / 2),  # two distinct words of four
        ("", 0.0),
        ("...", 0.0),
        ("lighthouse purpose ...", 1 / 2),  # trails off
        ("LIGHTHOUSES have a purpose!", 1.0),  # case and plural
        ('she said "lighthouse purpose."', 1.0),  # the full stop inside the quotation mark
    ],
)
def test_each_part_of_the_formula(body, quality):
    assert text_quality(PROMPT, body) == pytest.approx(quality)


@pytest.mark.parametrize(
    ("prompt", "good", "bad"),
    [
        ("Wo liegt der \u00e4lteste Leuchtturm?", "Der \u00e4lteste Leuchtturm liegt in Spanien.", "Keine Ahnung"),
        (
            "\u0413\u0434\u0435 \u043c\u043e\u0441\u0442?",
            "\u0413\u0434\u0435 \u043c\u043e\u0441\u0442, \u0442\u0430\u043c \u0440\u0435\u043a\u0430.",
            "\u0434\u0430",
        ),
        (
            "\u092a\u0941\u0932 \u0915\u0939\u093e\u0901 \u0939\u0948\u0964",
            "\u092a\u0941\u0932 \u0915\u0939\u093e\u0901 \u0939\u0948\u0964",
            "\u0928\u0939\u0940\u0902",
        ),
        ("\u706f\u53f0", "\u706f\u53f0\u306f\u767d\u3044\u3002", "\u306f\u3044"),
    ],
)
def test_other_languages(prompt, good, bad):
    assert text_quality(prompt, good) == 1.0
    assert text_quality(prompt, bad) == 0.0


@pytest.mark.parametrize(
    ("prompt", "keywords"),
    [
        (PROMPT, ("lighthouse", "purpose")),
        ("kite kite", ("kite",)),
        ("one two six", ("six", "two")),  # equally long: the later ones
        ("?!", ()),
    ],
)
def test_keywords(prompt, keywords):
    assert prompt_keywords(prompt) == keywords


@given(prompt=st.text(), body=st.text())
def test_bounded_for_any_text(prompt, body):
    assert 0.0 <= text_quality(prompt, body) <= 1.0


@given(prompt=st.text() | st.sampled_from(FILLERS) | st.builds("{} {}".format, st.text(), st.sampled_from(FILLERS)))
def test_the_maximum_is_attained_for_any_prompt(prompt):
    assert text_quality(prompt, perfect_body(prompt)) == 1.0


def test_every_character_can_be_a_keyword():
    # A keyword is case-folded once in the prompt and once more in the reply: folding twice must change nothing.
    for code in range(sys.maxunicode + 1):
        folded = chr(code).casefold()
        assert folded.casefold() == folded
