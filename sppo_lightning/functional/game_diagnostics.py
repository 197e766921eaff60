"""What kind of game a preference matrix is: does it have a winner, and how much of it is a cycle.

All functions take one game [N, N] as `games.check_game` returns it. Shape letters as in `games.py`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr, logit

from sppo_lightning.functional.games import Array


def condorcet_winner(probs_NN: Array) -> int | None:
    """The response that beats every other with probability above 1/2, or None."""
    winners = np.flatnonzero(_beats(probs_NN).sum(axis=1) == len(probs_NN) - 1)
    return int(winners[0]) if winners.size else None


def copeland_winners(probs_NN: Array) -> tuple[int, ...]:
    """The responses with the most majority wins, a tie counting half."""
    beats = _beats(probs_NN)
    scores = beats.sum(axis=1) - beats.sum(axis=0)
    return tuple(int(i) for i in np.flatnonzero(scores == scores.max()))


def borda_scores(probs_NN: Array) -> Array:
    """[N] the mean win rate of each response against the N - 1 others; N at least 2."""
    return (probs_NN.sum(axis=1) - 0.5) / (len(probs_NN) - 1)


def num_cyclic_triads(probs_NN: Array) -> int:
    """The number of unordered triples i, j, k with i over j, j over k and k over i by majority."""
    beats = _beats(probs_NN).astype(np.int64)
    # Each triad is counted from its three corners.
    return int(np.trace(beats @ beats @ beats)) // 3


def curl_share(probs_NN: Array, clip: float = 1e-3) -> float:
    """The share of the squared log-odds that no scores explain: HodgeRank (Jiang et al. 2011) on the complete graph.

    Y_ij = log P_ij / P_ji = s_i - s_j + curl_ij in least squares, whose solution is s_i = mean_j Y_ij; on the complete
    graph all that is left circulates in triads.

    Args:
        probs_NN: [N, N].
        clip: preferences are clipped to [clip, 1 - clip] first, as certain ones have infinite log-odds.

    Returns:
        0 for a Bradley-Terry game (and where nothing is preferred to anything), 1 for even rock-paper-scissors.
    """
    log_odds = logit(np.clip(probs_NN, clip, 1 - clip))
    scores = log_odds.mean(axis=1)
    curl = log_odds - (scores[:, None] - scores[None, :])
    total = float((log_odds**2).sum())
    return float((curl**2).sum()) / total if total > 0 else 0.0


def entropy(policy_N: Array) -> float:
    """Entropy in nats; of the von Neumann winner it is the Nash entropy, and its exp how many responses share it."""
    return float(entr(policy_N).sum())


def _beats(probs_NN: Array) -> np.ndarray:
    return probs_NN > 0.5
