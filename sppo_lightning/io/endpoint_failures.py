"""What a server's failure means: wait, try again, leave this request out, or stop."""

from __future__ import annotations

import enum
import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any


class MalformedError(Exception):
    """An answer that is none: not what the API promises, the wrong number of choices, not JSON."""


class Kind(enum.Enum):
    """What to do about a failure."""

    BUSY = "the server's state: wait for it, however often"
    ODD = "may pass, may be this request's fault: try again a few times"
    REFUSED = "this request's fault: leave it out"
    FATAL = "every request will fail so: stop"


@dataclass(frozen=True)
class Failure:
    """A failure, sorted.

    Attributes:
        kind: what to do about it.
        name: what it is, in two words, for counting.
        reason: what the server said; not yet safe to show.
        retry_after_s: how long the server asks to be left alone.
    """

    kind: Kind
    name: str
    reason: str
    retry_after_s: float = 0.0


_STATUS = {
    400: (Kind.REFUSED, "refused request"),
    401: (Kind.FATAL, "refused key"),
    402: (Kind.FATAL, "no credit"),
    403: (Kind.FATAL, "refused key"),
    404: (Kind.FATAL, "not found"),
    405: (Kind.FATAL, "not found"),
    413: (Kind.REFUSED, "refused request"),
    422: (Kind.REFUSED, "refused request"),
    429: (Kind.BUSY, "rate limit"),
    502: (Kind.BUSY, "server down"),
    503: (Kind.BUSY, "server down"),
    504: (Kind.BUSY, "server down"),
    529: (Kind.BUSY, "server down"),
}


def failure_of(error: Exception) -> Failure:
    """Sorts what the `openai` client or a check of ours raised."""
    import openai

    if isinstance(error, MalformedError):
        return Failure(Kind.ODD, "malformed answer", f"malformed answer: {error}")
    if isinstance(error, openai.APITimeoutError) and "Connect" in type(error.__cause__).__name__:
        return Failure(Kind.BUSY, "server down", "cannot be reached: no connection in time")
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Failure(Kind.ODD, "time-out", "no answer in time (timeout_s)")
    if isinstance(error, openai.APIStatusError):
        kind, name = _STATUS.get(error.status_code, (Kind.ODD, "server error"))
        if error.status_code == 429 and error.code == "insufficient_quota":
            kind, name = Kind.FATAL, "no credit"  # waiting does not help
        return Failure(kind, name, f"HTTP {error.status_code}: {_said(error)}", _retry_after_s(error.response.headers))
    if isinstance(error, openai.APIConnectionError):
        return Failure(Kind.BUSY, "server down", f"cannot be reached: {_first_cause(error)}")
    if isinstance(error, openai.APIResponseValidationError | ValueError):
        return Failure(Kind.ODD, "malformed answer", "malformed answer: not the JSON that the API promises")
    return Failure(Kind.FATAL, "client error", f"{type(error).__name__}: {error}")


def _said(error: Any) -> str:
    body = error.body
    if isinstance(body, dict):
        return str(body.get("message") or body.get("detail") or json.dumps(body))
    return str(body or error.response.text or "nothing more")


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _retry_after_s(headers: Any) -> float:
    """`Retry-After` is a number of seconds or a date."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
