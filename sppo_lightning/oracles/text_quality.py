"""A programmatic quality of any text as an answer to any prompt: bounded, deterministic, its maximum attainable."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

NUM_KEYWORDS = 2
FILLERS = ("to be honest", "you know", "as they say", "at the end of the day")
_TERMINATORS = tuple(".!?\u3002\uff01\uff1f\u061f\u06d4\u0964\u0589\u1362")
_CLOSERS = "\"')]\u00bb\u201d\u2019\u300d\u300f"
_MIN_CONTENT_LETTERS = 4


def text_quality(prompt: str, body: str) -> float:
    """Scores how well `body` answers `prompt`, in [0, 1], in any language.

    quality = relevance * freshness * (finished + plain) / 2, where
        relevance is the share of the prompt's keywords that the body contains (1 if the prompt has no word),
        freshness is the share of distinct words among the body's words of four letters and more (0 without any word),
        finished is 1 if the body ends with one sentence-final mark of its script, else 0,
        plain is 1 if no filler phrase of `FILLERS` occurs, else 0.

    A body that misses the prompt is worth nothing however well it is written. This measures form, not truth.

    Args:
        prompt: the last user turn.
        body: the response, without its style opener.

    Returns:
        1.0 exactly for `perfect_body(prompt)`.
    """
    folded = body.casefold()
    words = _words(folded)
    if not words:
        return 0.0
    keywords = prompt_keywords(prompt)
    # A word that contains the keyword counts, so that plurals and compounds do.
    relevance = sum(keyword in folded for keyword in keywords) / len(keywords) if keywords else 1.0
    content = [word for word in words if len(word) >= _MIN_CONTENT_LETTERS]
    freshness = len(set(content)) / len(content) if content else 1.0
    spaced = f" {' '.join(words)} "
    plain = not any(f" {filler} " in spaced for filler in FILLERS)
    return relevance * freshness * (_is_finished(body) + plain) / 2


def perfect_body(prompt: str) -> str:
    """Returns a body of quality 1 for this prompt, whatever the prompt is: its keywords and a full stop."""
    return f"{' '.join(prompt_keywords(prompt)) or 'yes'}."


@lru_cache(maxsize=4096)
def prompt_keywords(prompt: str) -> tuple[str, ...]:
    """Returns the prompt's two longest distinct words, case-folded, longest first; of equally long ones the later.

    Length stands in for a list of function words, which would be needed for every language.
    """
    words = _words(prompt.casefold())
    last_place = {word: place for place, word in enumerate(words)}
    ranked = sorted(last_place, key=lambda word: (len(word), last_place[word]), reverse=True)
    return tuple(ranked[:NUM_KEYWORDS])


def _words(folded: str) -> list[str]:
    # Letters, marks and digits: the regular expression \w leaves out the vowel signs of Indic scripts.
    return "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in folded).split()


def _is_finished(body: str) -> bool:
    end = body.rstrip().rstrip(_CLOSERS)
    # Two full stops and more are an ellipsis: the sentence trails off.
    return end.endswith(_TERMINATORS) and not end.endswith("..")
