"""Votes as a Bradley-Terry judge would have cast them, with every response's number of wins held where it is.

Given the votes a pair got, the win totals of the responses are sufficient for the Bradley-Terry scores: with the totals
fixed, the law of the votes is P(W) ~ prod_pairs C(n_ij, W_ij), whatever the scores are. Tests against it need no fitted
scores, and their size is exact where those of a parametric bootstrap suffer from scores fitted to 1-3 votes a pair.

Shape letters: J judges, B prompts, K responses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Counts = NDArray[np.int64]


class WinTotalChain:
    """A reversible Markov chain over win counts with the given totals (Metropolis et al. 1953).

    A move picks a random ring of responses in every prompt and gives each of them some votes of the next one. Such
    moves keep all totals, and reach every table with them: two tables differ by rings. Triads suffice where every pair
    of a prompt's responses got votes, as any ring's chord splits it; otherwise rings of all lengths are drawn.

    Args:
        wins_BKK: [B, K, K] votes for row over column. Not changed.
        votes_BKK: [B, K, K] decided votes of each pair, wins_BKK + its transpose; 0 where a pair was not judged.
        rng: where the moves are drawn from.
    """

    def __init__(self, wins_BKK: Counts, votes_BKK: Counts, rng: np.random.Generator) -> None:
        assert np.array_equal(wins_BKK + wins_BKK.swapaxes(-1, -2), votes_BKK)
        self._wins_BKK, self._votes_BKK, self._rng = wins_BKK.copy(), votes_BKK, rng
        self._prompts_B1 = np.arange(len(wins_BKK))[:, None]
        self._log_factorials = gammaln(np.arange(votes_BKK.max(initial=0) + 1) + 1.0)
        judged = votes_BKK[votes_BKK > 0]
        # One vote at a time would take n steps to cross a pair's standard deviation of sqrt(n) / 2.
        self._largest_shift = max(1, int(np.sqrt(np.median(judged)) / 2)) if judged.size else 1
        compared_BK = votes_BKK.max(axis=-1, initial=0) > 0
        expected_BKK = compared_BK[:, :, None] & compared_BK[:, None, :] & ~np.eye(votes_BKK.shape[-1], dtype=bool)
        self._longest_ring = 3 if np.array_equal(votes_BKK > 0, expected_BKK) else votes_BKK.shape[-1]

    def samples(self, num_samples: int, num_moves: int) -> Iterator[Counts]:
        """Yields the state [B, K, K] after each `num_moves` moves of every prompt; valid until the next one."""
        for _ in range(num_samples):
            for _ in range(num_moves):
                self._move()
            yield self._wins_BKK

    def _move(self) -> None:
        B, K = self._wins_BKK.shape[:2]
        length = int(self._rng.integers(3, self._longest_ring + 1))
        shift = int(self._rng.integers(1, self._largest_shift + 1))
        ring_BL = np.argsort(self._rng.random((B, K)), axis=1)[:, :length]
        cells = (self._prompts_B1, ring_BL, np.roll(ring_BL, -1, axis=1))
        wins_BL, votes_BL = self._wins_BKK[cells], self._votes_BKK[cells]
        moved_BL = wins_BL + shift
        possible_B1 = (moved_BL <= votes_BL).all(axis=1, keepdims=True)
        moved_BL = np.where(possible_B1, moved_BL, wins_BL)
        # Both directions of a ring and all shifts are drawn alike, so the law's ratio alone decides.
        log_ratio_B = (self._log_ways(moved_BL, votes_BL) - self._log_ways(wins_BL, votes_BL)).sum(axis=1)
        accepted_B = np.log1p(-self._rng.random(B)) <= log_ratio_B
        wins_BL = np.where(np.expand_dims(accepted_B, 1), moved_BL, wins_BL)
        self._wins_BKK[cells] = wins_BL
        self._wins_BKK[cells[0], cells[2], cells[1]] = votes_BL - wins_BL

    def _log_ways(self, wins: Counts, votes: Counts) -> NDArray[np.float64]:
        """Log C(votes, wins) without the part that no move changes."""
        return -self._log_factorials[wins] - self._log_factorials[votes - wins]
