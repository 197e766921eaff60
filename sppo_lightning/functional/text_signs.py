"""What a single text shows about itself without a judge: nothing in it, a refusal, or one phrase over and over."""

from __future__ import annotations

import re

# How assistants decline in English, at the beginning of an answer: what they say later is often about something else.
_REFUSAL = re.compile(
    r"\W*(?:unfortunately,? |(?:i(?:'m| am) )?(?:very |so |really )?sorry,? (?:but )?|i apologi[sz]e,? (?:but )?)*"
    r"(?:as an? (?:ai|artificial|language model)\b"
    r"|i (?:can(?:no|')t|can not|could(?:n't| not)|won't|will not|am not able|am unable|must decline|refuse)\b"
    r"|i'm (?:not able|unable|afraid i can(?:no|')t)\b"
    r"|it (?:is|would be|would not be) (?:not |in)?appropriate\b)",
    re.IGNORECASE,
)
_TYPOGRAPHIC = str.maketrans({"\u2019": "'", "\u2018": "'"})


def is_empty(text: str) -> bool:
    """Whether a text holds no letter and no digit of any script."""
    return not any(character.isalnum() for character in text)


def is_refusal(text: str) -> bool:
    """Whether an answer begins the way English-speaking assistants decline.

    A list of openings, no judge: it misses refusals in other words or languages, and counts an answer that declines
    rightly. Watch how the share of such answers moves, not where it stands.
    """
    return _REFUSAL.match(text.translate(_TYPOGRAPHIC)) is not None


def repetition(text: str, n: int = 4) -> float:
    """The share of a text's word n-grams that stood in it before: seq-rep-n (Welleck et al., arXiv 1908.04319).

    Args:
        text: words are what white space separates.
        n: words of an n-gram.

    Returns:
        0 where every n-gram is new or there is none, towards 1 for one phrase over and over.
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
