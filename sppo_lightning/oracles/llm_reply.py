"""From a chat model's reply to P(the response shown first is better)."""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import Any

from sppo_lightning.io.endpoints import MalformedError

FIRST, SECOND = "A", "B"


class NoVerdictError(Exception):
    """A reply without a verdict. `kind` names the reason for counting, the message says more."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def reply_of(completion: Any) -> Any:
    """The one choice of a chat completion.

    Raises:
        MalformedError: it is not what the API promises.
    """
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        raise MalformedError("not a chat completion")
    if len(choices) != 1:
        raise MalformedError(f"{len(choices)} choices instead of 1")
    message = getattr(choices[0], "message", None)
    if message is None:
        raise MalformedError("a choice without a message")
    if not hasattr(message, "content") or not isinstance(message.content, str | None):
        raise MalformedError("a message without a text")
    return choices[0]


def verdict_of(choice: Any, pattern: re.Pattern[str]) -> tuple[float, bool]:
    """P(A is better), and whether it comes from probabilities.

    Where the reply carries the probabilities of the token that holds the letter, P = p(A) / (p(A) + p(B)); otherwise
    the letter counts, 1 or 0.

    Args:
        choice: a choice of a chat completion.
        pattern: finds the letter, the first group of its last match.

    Raises:
        NoVerdictError: it names neither letter, is empty, or the model refuses to answer.
    """
    message = choice.message
    if getattr(message, "refusal", None) or getattr(choice, "finish_reason", None) == "content_filter":
        raise NoVerdictError("refusals", str(getattr(message, "refusal", None) or "held back by a content filter"))
    text = message.content
    if not text or not text.strip():
        raise NoVerdictError("empty_replies", "")
    found = list(pattern.finditer(text))
    if not found or found[-1][1] not in (FIRST, SECOND):
        raise NoVerdictError("unparsable_replies", text)
    letter = found[-1][1]
    try:
        probability = _soft(choice, text, len(text[: found[-1].start(1)].encode()))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise NoVerdictError("broken_logprobs", f"not the log-probabilities that the API promises: {error}") from error
    return (float(letter == FIRST), False) if probability is None else (probability, True)


def _soft(choice: Any, text: str, place: int) -> float | None:
    """P(A) from the alternatives of the token at byte `place` of the text; None where they are not given."""
    tokens = getattr(getattr(choice, "logprobs", None), "content", None) or []
    pieces = [_bytes(token) for token in tokens]
    begin = _begin(pieces, text.encode())
    if begin is None:
        return None
    place, begin = place + begin, 0
    for token, piece in zip(tokens, pieces, strict=True):
        if begin <= place < begin + len(piece):
            return _share(token, _shell(piece, place - begin))
        begin += len(piece)
    return None


def _begin(pieces: list[bytes], text: bytes) -> int | None:
    """Where the reply lies in what was generated: behind what the model thought, before its terminator."""
    generated, starts = b"".join(pieces), [0, *accumulate(map(len, pieces))]
    at_tokens = [start for start in starts if generated.startswith(text, start)]
    begin = at_tokens[-1] if at_tokens else generated.rfind(text)  # a server may strip the white space in front
    return begin if begin >= 0 else None


def _share(token: Any, shell: tuple[bytes, bytes]) -> float | None:
    """p(A) / (p(A) + p(B)) over the tokens that are a letter, bare or as the chosen token wraps it, such as " A"."""
    mass = dict.fromkeys((FIRST, SECOND), 0.0)
    for alternative in getattr(token, "top_logprobs", None) or []:
        logprob = alternative.logprob
        if not isinstance(logprob, int | float) or math.isnan(logprob) or logprob > 1e-3:
            raise NoVerdictError("broken_logprobs", f"log-probability {logprob}")
        written = _bytes(alternative)
        for letter in mass:
            if written.strip() == letter.encode() or written == shell[0] + letter.encode() + shell[1]:
                mass[letter] += math.exp(logprob)
    total = sum(mass.values())
    return mass[FIRST] / total if total > 0 else None


def _shell(piece: bytes, place: int) -> tuple[bytes, bytes]:
    return piece[:place], piece[place + 1 :]


def _bytes(token: Any) -> bytes:
    given = getattr(token, "bytes", None)
    return bytes(given) if given else str(token.token).encode()
