"""The socket for judges that look at one pair of responses at a time: both orders of presentation, then a matrix."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sppo_lightning.errors import OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two responses to one prompt, in the order in which a judge sees them."""

    prompt: Prompt
    first: str
    second: str

    @property
    def swapped(self) -> Pair:
        """The same responses in the other order."""
        return Pair(prompt=self.prompt, first=self.second, second=self.first)


class PairwiseOracle(PreferenceOracle):
    """A judge of single pairs. Subclasses write `prefer_first`, one order of presentation, any number of pairs a call.

    Both orders are asked and averaged, which takes out what a judge gives to a place rather than to a response; how
    much that was is counted (`measured`). Equal texts get 1/2 without being asked, and so does the diagonal. A pair
    without a verdict stays unjudged, it is never guessed.
    """

    queries_per_pair = 2

    def __init__(self) -> None:
        self._count_anew()

    def _count_anew(self) -> None:
        """Sets what `measured` tells to nothing; a subclass that counts more extends this."""
        self._num_pairs = 0
        self._num_failed = 0
        self._sum_first = 0.0

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """The same judge; what judging shows is counted for each round."""
        other = copy.copy(self)
        other._count_anew()
        return other

    @abstractmethod
    def prefer_first(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """Judges pairs in the order in which they are shown.

        Args:
            pairs: N pairs, of any prompts.

        Returns:
            [N] P(first beats second) in [0, 1]; None where there is no verdict and another try would not give one
            (an answer that is none, a text too long to be judged).

        Raises:
            OracleError: judging is not possible now: the judge cannot be reached, or answers nonsense throughout.
        """

    def judge(self, pairs: Sequence[Pair]) -> list[float | None]:
        """P(first beats second), averaged over both orders.

        A judge that is symmetric by construction, or averages elsewhere than in probabilities, overrides this.

        Args:
            pairs: N pairs, of any prompts; the two texts differ.

        Returns:
            [N]; None where either order got no verdict.

        Raises:
            OracleError: an answer is not a probability, or their number is wrong; see `prefer_first`, too.
        """
        answers = self.prefer_first([*pairs, *(pair.swapped for pair in pairs)])
        if len(answers) != 2 * len(pairs):
            raise OracleError(f"{self.name} returned {len(answers)} verdicts for {2 * len(pairs)} ordered pairs")
        verdicts: list[float | None] = []
        for pair, as_shown, as_swapped in zip(pairs, answers, answers[len(pairs) :], strict=False):
            for answer in (as_shown, as_swapped):
                if answer is not None and not 0 <= answer <= 1:  # NaN is neither
                    raise OracleError(
                        f"{self.name} answered {answer} at prompt {pair.prompt.prompt_id}; a verdict is a probability, "
                        f"in [0, 1]. The pair: {_short(pair.first)} and {_short(pair.second)}"
                    )
            if as_shown is None or as_swapped is None:
                self._num_failed += 1
                verdicts.append(None)
            else:
                self._num_pairs += 1
                self._sum_first += (as_shown + as_swapped) / 2
                verdicts.append((as_shown + 1 - as_swapped) / 2)
        return verdicts

    def most_usd(self, pair: Pair) -> float | None:
        """The most that a verdict on a pair can cost, US dollars; None where the judge does not know."""
        return None if self.usd_per_query is None else self.queries_per_pair * self.usd_per_query

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Judges every pair of different texts once; see `judge`."""
        pairs = AskedPairs(candidates, opponents)
        return pairs.matrix(self.judge(pairs.unique))

    def measured(self) -> dict[str, float]:
        """What judging showed since the object was made: numbers for the round's metrics.

        Returns:
            `position_bias`: mean over pairs of P(the response shown first wins) - 1/2, in [-1/2, 1/2]; 0 is fair.
            `failed_pairs`: pairs without a verdict.
        """
        bias = {"position_bias": self._sum_first / self._num_pairs - 0.5} if self._num_pairs else {}
        return bias | {"failed_pairs": float(self._num_failed)}


class AskedPairs:
    """The different pairs of texts behind a [B, K, J] matrix, and the way back.

    Args:
        candidates: the rows.
        opponents: the columns; None in self-play.

    Attributes:
        unique: pairs of different texts, no unordered pair of texts of a prompt twice.
        places: of each unique pair, one entry (b, i, j) at which it stands.
        different_BKJ: the entries that somebody has to judge: neither the diagonal of self-play nor equal texts.
    """

    def __init__(self, candidates: Candidates, opponents: Candidates | None = None) -> None:
        self.candidates = candidates
        self.columns = check_same_prompts(candidates, opponents)
        self.self_play = opponents is None
        self.exists_BKJ = judged_mask(candidates, self.columns)
        self.unique: list[Pair] = []
        self.places: list[tuple[int, int, int]] = []
        self._number_BKJ = torch.full(self.exists_BKJ.shape, -1)
        self._turned_BKJ = torch.zeros_like(self.exists_BKJ)
        for b, (prompt, rows, cols) in enumerate(
            zip(candidates.prompts, candidates.texts, self.columns.texts, strict=True)
        ):
            number: dict[tuple[str, str], int] = {}
            for i, first in enumerate(rows):
                for j, second in enumerate(cols):
                    if first == second or (self.self_play and i == j):
                        continue
                    key = min((first, second), (second, first))
                    if key not in number:
                        number[key] = len(self.unique)
                        self.unique.append(Pair(prompt=prompt, first=key[0], second=key[1]))
                        self.places.append((b, i, j))
                    self._number_BKJ[b, i, j] = number[key]
                    self._turned_BKJ[b, i, j] = key[0] != first
        self.different_BKJ = self._number_BKJ >= 0

    def needed(self, wanted_BKJ: Tensor) -> list[int]:
        """The unique pairs behind some of the entries, as indices in ascending order."""
        return sorted(set(self._number_BKJ[wanted_BKJ & (self._number_BKJ >= 0)].tolist()))

    def alone(self, pairs: Sequence[int]) -> tuple[Candidates, Candidates]:
        """Some unique pairs as one candidate and one opponent each, for oracles that only compare such.

        Args:
            pairs: N indices.

        Returns:
            the first and the second responses, [N] prompts with one response each.
        """
        turned = [bool(self._turned_BKJ[self.places[pair]]) for pair in pairs]
        rows, columns = ([], [])  # type: tuple[list[tuple[Candidates, int, int]], list[tuple[Candidates, int, int]]]
        for pair, is_turned in zip(pairs, turned, strict=True):
            b, i, j = self.places[pair]
            row, column = (self.candidates, b, i), (self.columns, b, j)
            rows.append(column if is_turned else row)
            columns.append(row if is_turned else column)
        return single_responses(rows), single_responses(columns)

    def matrix(self, verdicts: Sequence[float | None], wanted_BKJ: Tensor | None = None) -> PreferenceMatrix:
        """Puts the verdicts on `unique` where they belong.

        Args:
            verdicts: P(first beats second) of each unique pair; None: not judged.
            wanted_BKJ: only these entries count as judged, and the diagonal in self-play. Equal texts, which nobody is
                asked about, are no exception: counted always, they would draw win rates towards 1/2. Default: all.

        Raises:
            OracleError: the number is wrong, or one is not a probability.
        """
        if len(verdicts) != len(self.unique):
            raise OracleError(f"An oracle returned {len(verdicts)} verdicts for {len(self.unique)} pairs")
        # The last one stands for equal texts, whose number is -1.
        known = torch.tensor([math.nan if v is None else float(v) for v in verdicts] + [0.5], dtype=torch.float64)
        probs_BKJ = known[self._number_BKJ]
        probs_BKJ = torch.where(self._turned_BKJ, 1 - probs_BKJ, probs_BKJ)
        judged_BKJ = self.exists_BKJ & torch.tensor([v is not None for v in verdicts] + [True])[self._number_BKJ]
        if wanted_BKJ is not None:
            diagonal = torch.eye(judged_BKJ.shape[1], judged_BKJ.shape[2], dtype=torch.bool) & self.self_play
            judged_BKJ &= wanted_BKJ | diagonal
        return PreferenceMatrix(
            probs_BKJ=torch.where(judged_BKJ, probs_BKJ, 0.5).float(),
            judged_BKJ=judged_BKJ,
            self_play=self.self_play,
            prompt_ids=[prompt.prompt_id for prompt in self.candidates.prompts],
        )


def single_responses(responses: Sequence[tuple[Candidates, int, int]]) -> Candidates:
    """[N] prompts with one response each, taken out of (candidates, b, k)."""
    first = responses[0][0]
    return Candidates(
        prompts=[c.prompts[b] for c, b, _ in responses],
        prompt_token_ids=[c.prompt_token_ids[b] for c, b, _ in responses],
        token_ids=[[c.token_ids[b][k]] for c, b, k in responses],
        texts=[[c.texts[b][k]] for c, b, k in responses],
        finish_reasons=[[c.finish_reasons[b][k]] for c, b, k in responses],
        policy=first.policy,
        sampling=first.sampling,
    )


def _short(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[:length] + "...")
