"""A judge that had to stop in the middle of its questions, with the answers it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sppo_lightning.errors import OracleError


class UnfinishedError(OracleError):
    """Judging is not possible now; some of the questions were answered before, and paid for.

    Args:
        message: what stopped it.
        finished: the answers by number of the question.
    """

    def __init__(self, message: str, finished: Mapping[int, Any]) -> None:
        super().__init__(message)
        self.finished = finished
