"""Verdicts as one preference game a prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sppo_lightning.functional.games import Array
from sppo_lightning.functional.win_total_chain import Counts
from sppo_lightning.io.votes import Votes


@dataclass(frozen=True, kw_only=True)
class Games:
    """B games; rows and columns beyond a prompt's own responses are empty.

    Attributes:
        wins_BKK: decided votes for row over column.
        votes_BKK: decided votes of each pair, which are those of a pair's comparisons without the ties.
        shares_BKK: P(row beats column) from all verdicts of the pair, ties counting half; 1/2 where there is none.
        judged_BKK: whether there is one; False on the diagonal.
        num_responses_B: responses of each prompt.
    """

    wins_BKK: Counts
    votes_BKK: Counts
    shares_BKK: Array
    judged_BKK: np.ndarray
    num_responses_B: Counts

    @property
    def complete_B(self) -> np.ndarray:  # noqa: N802 - the shape letter
        """[B] whether every pair of the prompt's responses was judged."""
        pairs_B = self.num_responses_B * (self.num_responses_B - 1)
        return self.judged_BKK.sum(axis=(1, 2)) == pairs_B

    def probs(self, b: int) -> Array:
        """[N, N] the game of prompt b, without the empty rows."""
        N = self.num_responses_B[b]
        return self.shares_BKK[b, :N, :N]


def games_of(votes: Votes) -> Games:
    """Adds up the comparisons of each pair, in whichever order they were shown."""
    num_responses_B = np.array([len(names) for names in votes.responses])
    B, K = len(num_responses_B), int(num_responses_B.max())
    forward = (votes.prompt_M, votes.first_M, votes.second_M)
    backward = (votes.prompt_M, votes.second_M, votes.first_M)

    def total(for_first_M: Array, for_second_M: Array) -> Array:
        sums_BKK = np.zeros((B, K, K))
        np.add.at(sums_BKK, forward, for_first_M)
        np.add.at(sums_BKK, backward, for_second_M)
        return sums_BKK

    wins_BKK = total(np.nan_to_num(votes.for_first_M), np.nan_to_num(votes.for_second_M)).astype(np.int64)
    weight_M = np.where(np.isnan(votes.num_votes), 1.0, votes.num_votes)  # a bare probability is one verdict
    weight_BKK = total(weight_M, weight_M)
    judged_BKK = weight_BKK > 0
    points_BKK = total(weight_M * votes.share_first, weight_M * (1 - votes.share_first))
    return Games(
        wins_BKK=wins_BKK,
        votes_BKK=wins_BKK + wins_BKK.swapaxes(1, 2),
        shares_BKK=np.divide(points_BKK, weight_BKK, out=np.full((B, K, K), 0.5), where=judged_BKK),
        judged_BKK=judged_BKK,
        num_responses_B=num_responses_B,
    )
