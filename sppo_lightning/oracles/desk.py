"""Where answers of judges come from: the cache, or the judge itself, block by block and within the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sppo_lightning.errors import BudgetError
from sppo_lightning.io.judgements import JudgementStore
from sppo_lightning.io.ledger import Cost, Ledger, Limit
from sppo_lightning.oracles.unfinished import UnfinishedError
from sppo_lightning.types import Progress

Answer = bytes | None
_LONGEST_NAP_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What a judge is to be asked.

    Attributes:
        judge: its name.
        keys: [N] what each question is about, by content.
        costs: [N] the queries of each question, and the most US dollars that they can cost.
        ask: asks the questions of these numbers; an answer is None where there is none, for good.
        paid: what the judge has cost since it was made, US dollars; None where it does not count.
        size: pairs or responses in one question.
        unit: what is counted, in the plural.
    """

    judge: str
    keys: Sequence[bytes]
    costs: Sequence[Cost]
    ask: Callable[[list[int]], Sequence[Answer]]
    paid: Callable[[], float | None] = lambda: None
    size: int = 1
    unit: str = "pairs"


class Desk:
    """Gets every answer once: from the cache, from another process that is asking, or from the judge.

    Args:
        store: the cache; None: nothing is kept.
        ledger: the run's spending.
        purpose: what is judged, such as "round_003" or "held-out".
        limit: over all purposes.
        usd_per_query: not set: what the judge says.
        block: pairs asked about at a time; the most that a kill loses.
        retry_failed: ask again where the judge had no answer.
        progress: tells the person who waits.
    """

    def __init__(
        self,
        store: JudgementStore | None,
        ledger: Ledger,
        purpose: str,
        *,
        progress: Progress,
        limit: Limit | None = None,
        usd_per_query: float | None = None,
        block: int = 256,
        retry_failed: bool = False,
    ) -> None:
        self.store, self.ledger, self.purpose = store, ledger, purpose
        self.limit, self.usd_per_query, self.block = limit or Limit(), usd_per_query, block
        self.progress, self.retry_failed = progress, retry_failed
        self.num_found = 0
        self._retried: set[bytes] = set()

    def answers(self, questions: Questions) -> list[Answer]:
        """The answer to each question, in order.

        Raises:
            BudgetError: the next question does not fit into the limit. Everything answered is kept.
            OracleError: from asking; the blocks before are kept, and what an `UnfinishedError` holds.
        """
        # Of equal questions, the first is asked.
        number: dict[bytes, int] = {}
        for index, key in enumerate(questions.keys):
            number.setdefault(key, index)
        known = self._known(list(number))
        self.num_found += len(known)
        missing = [key for key in number if key not in known]
        size = max(1, self.block // questions.size)
        bar = None
        if len(missing) > size:
            bar = self.progress(f"asking {questions.judge}", len(missing) * questions.size, questions.unit)
        try:
            for start in range(0, len(missing), size):
                block = missing[start : start + size]
                known |= self._block(questions, [number[key] for key in block])
                if bar is not None:
                    bar.update(len(block) * questions.size)
        finally:
            if bar is not None:
                bar.close()
        return [known[key] for key in questions.keys]

    def measured(self) -> dict[str, float]:
        """What this purpose has cost so far, over all processes and restarts; dollars where there is a price."""
        queries, usd = self.ledger.spent(self.purpose)
        return {"cost/paid_queries": float(queries)} | ({"cost/usd": usd} if self.ledger.spent()[1] else {})

    def _known(self, keys: list[bytes]) -> dict[bytes, Answer]:
        if self.store is None or not keys:
            return {}
        if self.retry_failed:
            again = [key for key in keys if key not in self._retried]
            self.store.forget_unanswered(again)
            self._retried |= set(again)
        return self.store.read(keys)

    def _block(self, questions: Questions, numbers: list[int]) -> dict[bytes, Answer]:
        """Asks, or waits for the process that is asking."""
        store, number = self.store, {questions.keys[index]: index for index in numbers}
        if store is None:
            return self._asked(questions, numbers)
        answers: dict[bytes, Answer] = {}
        nap_s = 0.02
        while missing := [key for key in number if key not in answers]:
            with store.claim(missing) as mine:
                if mine:
                    answers |= self._asked(questions, [number[key] for key in mine])
            found = store.read([key for key in missing if key not in answers])
            answers |= found
            if not mine and not found:
                time.sleep(nap_s)
                nap_s = min(2 * nap_s, _LONGEST_NAP_S)
        return answers

    def _asked(self, questions: Questions, numbers: list[int]) -> dict[bytes, Answer]:
        """Asks about as many as the limit has room for, then again: answers that cost less than booked leave room."""
        answers: dict[bytes, Answer] = {}
        while numbers:
            costs = [questions.costs[number] for number in numbers]
            booked = self.ledger.reserve(self.purpose, costs, self.limit)
            if not booked:
                raise BudgetError(self._exhausted(questions.judge, costs[0]))
            answers |= self._answered(questions, numbers[:booked])
            numbers = numbers[booked:]
        return answers

    def _answered(self, questions: Questions, numbers: list[int]) -> dict[bytes, Answer]:
        """Asks about what is booked, and keeps the answers, also of a judge that stops."""
        before, stopped_by = questions.paid(), None
        try:
            finished = dict(zip(range(len(numbers)), questions.ask(numbers), strict=True))
        except UnfinishedError as error:
            finished, stopped_by = dict(error.finished), error
        answers = {questions.keys[numbers[place]]: answer for place, answer in finished.items()}
        after = questions.paid()
        if before is not None and after is not None:
            # What was not finished stays booked: it may have been on its way.
            booked_usd = sum(questions.costs[numbers[place]][1] for place in finished)
            self.ledger.correct(self.purpose, after - before - booked_usd)
        if self.store is not None:
            self.store.write(questions.judge, answers)
        if stopped_by is not None:
            raise stopped_by
        return answers

    def _exhausted(self, judge: str, cost: Cost) -> str:
        queries, usd = self.ledger.spent()
        if self.limit.queries is not None and queries + cost[0] > self.limit.queries:
            limit = (
                f"data.judging.max_queries={self.limit.queries}: {queries} are spent, the next question needs {cost[0]}"
            )
        else:
            limit = (
                f"data.judging.max_usd={self.limit.usd}: {usd:.4f} are spent, the next question may cost {cost[1]:.4f}"
            )
        return (
            f"{limit} ({judge}, {self.purpose}). What was judged is kept: raise the limit, and the same command goes on"
        )
