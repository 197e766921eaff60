"""Judges of pairs that answer in logits, and the two ways to make a matrix of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles.pairwise import Pair, PairwiseOracle
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask, pad
from sppo_lightning.types import Candidates, PreferenceMatrix

Aggregation = Literal["pairwise", "bradley_terry"]


class PairLogitOracle(PairwiseOracle):
    """A judge whose answer L(y, y') is the log-odds that y, shown first, beats y'. Subclasses write `logits`.

    pairwise: P(y > y') = sigmoid((L(y, y') - L(y', y)) / 2), the mean of both orders; cycles are kept.
    bradley_terry: P(y_i > y_j) = sigmoid(s_i - s_j) with s_i = mean_j (L_ij - L_ji), the mean over all responses that
        are compared, itself included. It is what uclaml/SPPO's scripts make of PairRM (`rank.py`, `compute_prob.py`):
        cycles are erased and, where logits are Bradley-Terry's to begin with, they are doubled. For reproduction only.

    Args:
        aggregation: how logits become probabilities.

    Raises:
        ConfigError: it is neither of the two.
    """

    queries_per_pair = 2

    def __init__(self, aggregation: Aggregation = "pairwise") -> None:
        super().__init__()
        if aggregation not in ("pairwise", "bradley_terry"):
            raise ConfigError(f"data.oracle.aggregation must be pairwise or bradley_terry, got {aggregation!r}")
        self.aggregation = aggregation
        self.gives_scores = aggregation == "bradley_terry"
        self.judges_pairs_alone = aggregation == "pairwise"

    @abstractmethod
    def logits(self, pairs: Sequence[Pair]) -> Tensor:
        """[N] L(first, second) in nats, of pairs in the order in which they are shown."""

    def prefer_first(self, pairs: Sequence[Pair]) -> list[float | None]:
        """sigmoid(L(first, second)), one order of presentation."""
        return list(torch.sigmoid(self._finite_logits(pairs)).tolist())

    def judge(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The mean of both orders, in logits; see `PairwiseOracle.judge`.

        Raises:
            OracleError: a logit is not finite, or `aggregation` needs all responses to a prompt at once.
        """
        if self.aggregation != "pairwise":
            raise OracleError(
                f"{self.name}: aggregation bradley_terry scores a response against all others of its prompt, so it "
                "cannot judge single pairs (a cache of pairs, a budget or a sample of the pairs would change it); use "
                "aggregation pairwise there"
            )
        return list(torch.sigmoid(self._margins(pairs) / 2).tolist())

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Judges every pair of different texts once, in both orders.

        Under bradley_terry the scores are means over candidates and opponents together.
        """
        if self.aggregation == "pairwise":
            return super().compare(candidates, opponents)
        columns = check_same_prompts(candidates, opponents)
        num_K = candidates.num_candidates
        compared = [
            [*rows, *(() if opponents is None else cols)]
            for rows, cols in zip(candidates.texts, columns.texts, strict=True)
        ]
        scores = self._rank_scores(candidates, compared)
        scores_BK = pad([row[:K] for row, K in zip(scores, num_K, strict=True)], float("nan"), torch.float64)
        theirs = scores if opponents is None else [row[K:] for row, K in zip(scores, num_K, strict=True)]
        margins_BKJ = scores_BK[:, :, None] - pad(theirs, float("nan"), torch.float64)[:, None, :]
        judged_BKJ = judged_mask(candidates, columns)
        return PreferenceMatrix(
            probs_BKJ=torch.sigmoid(margins_BKJ).masked_fill(~judged_BKJ, 0.5).float(),
            judged_BKJ=judged_BKJ,
            scores_BK=scores_BK.float(),
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )

    def _rank_scores(self, candidates: Candidates, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """s_i = mean_j (L_ij - L_ji) of each text of each prompt; equal texts are judged once and count as often."""
        unique = [sorted(set(row)) for row in texts]
        pairs = [
            Pair(prompt=prompt, first=row[i], second=row[j])
            for prompt, row in zip(candidates.prompts, unique, strict=True)
            for i in range(len(row))
            for j in range(i + 1, len(row))
        ]
        margins = iter(self._margins(pairs).tolist())
        scores = []
        for row, names in zip(texts, unique, strict=True):
            count = [row.count(name) for name in names]
            total = [0.0] * len(names)
            for i in range(len(names)):
                for j in range(i + 1, len(names)):
                    margin = next(margins)
                    total[i] += margin * count[j] / len(row)
                    total[j] -= margin * count[i] / len(row)
            score = dict(zip(names, total, strict=True))
            scores.append([score[text] for text in row])
        return scores

    def _margins(self, pairs: Sequence[Pair]) -> Tensor:
        """[N] L(first, second) - L(second, first), float64; counts what the first place is worth."""
        logits = self._finite_logits([*pairs, *(pair.swapped for pair in pairs)])
        as_shown, as_swapped = logits[: len(pairs)], logits[len(pairs) :]
        self._num_pairs += len(pairs)
        self._sum_first += float((torch.sigmoid(as_shown) + torch.sigmoid(as_swapped)).sum()) / 2
        return as_shown - as_swapped

    def _finite_logits(self, pairs: Sequence[Pair]) -> Tensor:
        logits = self.logits(pairs).double()
        if len(logits) != len(pairs):
            raise OracleError(f"{self.name} returned {len(logits)} logits for {len(pairs)} ordered pairs")
        bad = ~torch.isfinite(logits)
        if bool(bad.any()):
            first = pairs[int(bad.nonzero()[0])]
            raise OracleError(
                f"{self.name}: the logit of a pair at prompt {first.prompt.prompt_id} is {float(logits[bad][0])} "
                f"({int(bad.sum())} of {len(pairs)}). If the weights are sound, the precision is too small: "
                "data.oracle.dtype float32"
            )
        return logits
