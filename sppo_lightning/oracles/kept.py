"""Judges whose answers are kept and paid for once: by pair, by response, or by prompt."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sppo_lightning.errors import OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.composed import ComposedOracle
from sppo_lightning.oracles.desk import Answer, Desk, Questions
from sppo_lightning.oracles.identity import identity
from sppo_lightning.oracles.kept_answers import as_json, from_json, key, packed, unpacked
from sppo_lightning.oracles.pair_logits import PairLogitOracle
from sppo_lightning.oracles.pairwise import Pair, PairwiseOracle, single_responses
from sppo_lightning.oracles.ragged import check_matrix, check_same_prompts, pad
from sppo_lightning.oracles.score_to_preference import Scorer, ScoreToPreference
from sppo_lightning.oracles.unfinished import UnfinishedError
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


def kept(oracle: PreferenceOracle, desk: Desk) -> PreferenceOracle:
    """The same judge, asking whom it asks through a desk. What costs nothing is asked as before.

    Args:
        oracle: any judge; of one that asks others, those are kept.
        desk: the cache and the budget.
    """
    if isinstance(oracle, ComposedOracle):
        return oracle.asking({name: kept(member, desk) for name, member in oracle.members.items()})
    if isinstance(oracle, ScoreToPreference) and oracle.scorer.costs:
        by_score = copy.copy(oracle)
        by_score.scorer = KeptScorer(oracle.scorer, desk)
        return by_score
    if isinstance(oracle, ScoreToPreference) or not oracle.costs:
        return oracle
    if isinstance(oracle, PairwiseOracle) and oracle.judges_pairs_alone:
        return KeptPairs(oracle, desk)
    return KeptMatrices(oracle, desk)


def paying(oracle: PreferenceOracle) -> Iterator[PreferenceOracle | Scorer]:
    """The judges and scorers behind an oracle whose answers cost something."""
    if isinstance(oracle, ComposedOracle):
        for member in oracle.members.values():
            yield from paying(member)
    elif isinstance(oracle, ScoreToPreference):
        if oracle.scorer.costs:
            yield oracle.scorer
    elif oracle.costs:
        yield oracle


_Judge = TypeVar("_Judge", bound=PreferenceOracle)


class _Kept(PreferenceOracle, Generic[_Judge]):
    """Everything but judging is the oracle's."""

    oracle: _Judge
    desk: Desk

    def _stand_for(self, oracle: _Judge, desk: Desk) -> None:
        self.oracle, self.desk = oracle, desk
        self.gives_scores, self.judges_pairs_alone = oracle.gives_scores, oracle.judges_pairs_alone
        self.asked_by, self.queries_per_pair = oracle.asked_by, oracle.queries_per_pair
        self.usd_per_query, self.works_on = oracle.usd_per_query, oracle.works_on

    @property
    def name(self) -> str:
        """The oracle's."""
        return self.oracle.name

    @property
    def itself(self) -> PreferenceOracle:
        """The oracle: these are its verdicts."""
        return self.oracle

    @property
    def usd(self) -> float | None:
        """What the oracle has cost."""
        return self.oracle.usd

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """The oracle's rule."""
        self.oracle.check_prompts(prompts)

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """The oracle as it is in that round."""
        return kept(self.oracle.for_round(earlier), self.desk)

    def measured(self) -> dict[str, float]:
        """What the oracle measured."""
        return self.oracle.measured()

    def close(self) -> None:
        """Frees what the oracle loaded."""
        self.oracle.close()


class KeptPairs(_Kept[PairwiseOracle], PairwiseOracle):
    """A judge of single pairs, each of which is judged once.

    Args:
        oracle: who judges.
        desk: the cache and the budget.
    """

    def __init__(self, oracle: PairwiseOracle, desk: Desk) -> None:
        super().__init__()
        self._stand_for(oracle, desk)

    def prefer_first(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """One order of presentation; not kept."""
        return self.oracle.prefer_first(pairs)

    def most_usd(self, pair: Pair) -> float | None:
        """The oracle's."""
        return self.oracle.most_usd(pair)

    def judge(self, pairs: Sequence[Pair]) -> list[float | None]:
        """P(first beats second), from the cache or from the oracle; see `PairwiseOracle.judge`.

        Raises:
            BudgetError: the next pair does not fit into the limit. What was judged is kept.
        """
        judge = identity(self.oracle)
        # Of a pair and its mirror image, one is asked.
        straight = [pair if pair.first <= pair.second else pair.swapped for pair in pairs]
        queries, price = self.queries_per_pair, self.desk.usd_per_query

        def ask(numbers: list[int]) -> list[Answer]:
            try:
                return [packed(verdict) for verdict in self.oracle.judge([straight[number] for number in numbers])]
            except UnfinishedError as error:
                finished = {place: packed(verdict) for place, verdict in error.finished.items()}
                raise UnfinishedError(str(error), finished) from None

        answers = self.desk.answers(
            Questions(
                judge=self.name,
                keys=[key(judge, pair.prompt, pair.first, pair.second) for pair in straight],
                costs=[
                    (queries, (self.oracle.most_usd(pair) or 0.0) if price is None else queries * price)
                    for pair in straight
                ],
                ask=ask,
                paid=lambda: self.oracle.usd,
            )
        )
        verdicts: list[float | None] = []
        for pair, answer in zip(pairs, answers, strict=True):
            verdict = unpacked(answer)
            verdicts.append(verdict if verdict is None or pair.first <= pair.second else 1 - verdict)
        return verdicts


class KeptMatrices(_Kept[PreferenceOracle]):
    """Any other judge, whose verdicts on all responses to a prompt are kept together.

    Args:
        oracle: who judges.
        desk: the cache and the budget.
    """

    def __init__(self, oracle: PreferenceOracle, desk: Desk) -> None:
        self._stand_for(oracle, desk)

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """From the cache or from the oracle, prompt by prompt.

        Raises:
            BudgetError: the next prompt does not fit into the limit. What was judged is kept.
        """
        columns = check_same_prompts(candidates, opponents)
        judge, B = identity(self.oracle), len(candidates)

        def ask(numbers: list[int]) -> list[Answer]:
            asked = candidates.at(numbers), None if opponents is None else opponents.at(numbers)
            matrix = self.oracle.compare(*asked)
            check_matrix(self.name, matrix, *asked)
            sizes = [(candidates.num_candidates[b], columns.num_candidates[b]) for b in numbers]
            return [as_json(matrix, number, *size) for number, size in enumerate(sizes)]

        answers = self.desk.answers(
            Questions(
                judge=self.name,
                keys=[
                    key(
                        judge,
                        candidates.prompts[b],
                        list(candidates.texts[b]),
                        None if opponents is None else list(opponents.texts[b]),
                    )
                    for b in range(B)
                ],
                costs=[self._cost(candidates, opponents, b) for b in range(B)],
                ask=ask,
                paid=lambda: self.oracle.usd,
                size=max(max(candidates.num_candidates) * max(columns.num_candidates) // 2, 1),
            )
        )
        return from_json(answers, candidates, opponents)

    def _cost(self, candidates: Candidates, opponents: Candidates | None, b: int) -> tuple[int, float]:
        K = candidates.num_candidates[b]
        if self.asked_by == "response":
            queries = K + (0 if opponents is None else opponents.num_candidates[b])
        else:
            J = 0 if opponents is None else opponents.num_candidates[b]
            # bradley_terry scores a response against all others, so opponents are compared with each other, too.
            all_pairs = opponents is None or isinstance(self.oracle, PairLogitOracle)
            queries = ((K + J) * (K + J - 1) // 2 if all_pairs else K * J) * self.queries_per_pair
        return queries, queries * (self.desk.usd_per_query or self.usd_per_query or 0.0)


class KeptScorer(Scorer):
    """A scorer that scores each response once.

    Args:
        scorer: who scores.
        desk: the cache and the budget.
    """

    def __init__(self, scorer: Scorer, desk: Desk) -> None:
        self.scorer, self.desk = scorer, desk
        self.usd_per_query = scorer.usd_per_query

    @property
    def itself(self) -> Scorer:
        """The scorer: these are its scores."""
        return self.scorer

    def score(self, candidates: Candidates) -> Tensor:
        """From the cache or from the scorer.

        Raises:
            BudgetError: the next response does not fit into the limit. What was scored is kept.
            OracleError: a score is not a finite number.
        """
        judge = identity(self.scorer)
        places = [(b, k) for b, K in enumerate(candidates.num_candidates) for k in range(K)]

        def ask(numbers: list[int]) -> list[Answer]:
            asked = single_responses([(candidates, *places[number]) for number in numbers])
            scores = self.scorer.score(asked)[:, 0].double()
            if not bool(torch.isfinite(scores).all()):
                bad = int((~torch.isfinite(scores)).nonzero()[0])
                raise OracleError(
                    f"{type(self.scorer).__name__}: a response to prompt {asked.prompts[bad].prompt_id} has the score "
                    f"{float(scores[bad])}; a score must be a finite number"
                )
            return [packed(score) for score in scores.tolist()]

        answers = self.desk.answers(
            Questions(
                judge=type(self.scorer).__name__,
                keys=[key(judge, candidates.prompts[b], candidates.texts[b][k]) for b, k in places],
                costs=[(1, self.desk.usd_per_query or self.usd_per_query or 0.0)] * len(places),
                ask=ask,
                unit="responses",
            )
        )
        scores = iter(answers)
        rows = [[unpacked(next(scores)) or 0.0 for _ in range(K)] for K in candidates.num_candidates]
        return pad(rows, float("nan"), torch.float64)

    def close(self) -> None:
        """Frees what the scorer loaded."""
        self.scorer.close()
