"""Workers side by side, one a slot: each is asked, and one that dies, hangs or fails is replaced and asked again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from sppo_lightning.engines.worker_process import WorkerFailure, WorkerProcess
from sppo_lightning.errors import EngineError

_POLL_S = 0.02


class WorkerPool:
    """Starts workers when there is something to ask.

    Args:
        start: starts the worker of a slot.
        name: what a slot's worker is called, such as "vLLM worker 0 on GPU 3".
        retries: how often a question is asked again.
    """

    def __init__(self, start: Callable[[int], WorkerProcess], name: Callable[[int], str], retries: int) -> None:
        self._start, self._name, self._retries = start, name, retries
        self._workers: dict[int, WorkerProcess] = {}

    def answers(self, questions: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
        """The workers' answers by slot.

        Args:
            questions: slot -> what its worker is asked.

        Raises:
            EngineError: a worker failed more often than `retries` allows, or said before its first answer why it
                cannot work; the last lines of its log follow. No worker lives then.
        """
        failures = dict.fromkeys(questions, 0)
        answers: dict[int, Any] = {}
        try:
            for slot, question in questions.items():
                self._ask(slot, question)
            while len(answers) < len(questions):
                for slot in questions.keys() - answers.keys():
                    try:
                        answer = self._workers[slot].answer()
                    except WorkerFailure as failure:
                        self._workers.pop(slot).close()
                        failures[slot] += 1
                        self._consider(slot, failure, failures[slot])
                        self._ask(slot, questions[slot])
                    else:
                        if answer is not None:
                            answers[slot] = answer
                time.sleep(_POLL_S)
        except BaseException:
            self.close()
            raise
        return answers

    def close(self) -> None:
        """Ends all workers and waits until they are gone."""
        while self._workers:
            _, worker = self._workers.popitem()
            worker.close()

    def _ask(self, slot: int, question: Mapping[str, Any]) -> None:
        if slot not in self._workers:
            self._workers[slot] = self._start(slot)
        self._workers[slot].ask(question)

    def _consider(self, slot: int, failure: WorkerFailure, failures: int) -> None:
        """Says that a question is asked again, or raises where that is no use."""
        if failure.final or failures > self._retries:
            tried = "" if failure.final else f" ({failures} of {self._retries + 1} attempts)"
            raise EngineError(
                f"{self._name(slot)} {failure}{tried}. Finished chunks are kept: the same command goes on from there. "
                f"The last lines of its log:\n{failure.log}"
            )
        warnings.warn(
            f"{self._name(slot)} {failure}; a fresh one is asked (retry {failures} of {self._retries})", stacklevel=4
        )
