"""Three answers to "which response is best", and how far apart they are when preferences are not transitive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sppo_lightning.functional.game_diagnostics import borda_scores, condorcet_winner, entropy
from sppo_lightning.functional.games import Array, duality_gap, von_neumann_winner

# What vote shares such as 1/3 + 2/3 may be off by.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class GameAnswers:
    """The answers of one game.

    Attributes:
        nash_N: the von Neumann winner, a mixture of responses that none beats.
        nash_unique: whether there is one such mixture only.
        nash_responses: exp of its entropy: how many responses share it, 1 for a single one.
        borda: the responses with the highest mean win rate; several where they tie.
        condorcet: the response that beats each other one by majority, or None.
        borda_gap: duality gap of answering with the Borda winners, in [0, 1]: how exploitable they are; 0 where they
            are an equilibrium, too.
        distance: total variation between `nash_N` and the even mixture of the Borda winners, in [0, 1]; 0 where that
            mixture is an equilibrium, too.
    """

    nash_N: Array
    nash_unique: bool
    nash_responses: float
    borda: tuple[int, ...]
    condorcet: int | None
    borda_gap: float
    distance: float


def game_answers(probs_NN: Array) -> GameAnswers:
    """Solves one game.

    Args:
        probs_NN: [N, N] as `games.check_game` returns it, N at least 2.
    """
    winner = von_neumann_winner(probs_NN)
    borda_N = borda_scores(probs_NN)
    best_N = borda_N >= borda_N.max() - _ROUNDING
    mixture_N = best_N / best_N.sum()
    gap = max(0.0, float(duality_gap(probs_NN, mixture_N)))
    # Of several equilibria the solver returns any; the Borda winners are no distance from one that they form.
    distance = float(np.abs(winner.policy_N - mixture_N).sum() / 2) if gap > _ROUNDING else 0.0
    return GameAnswers(
        nash_N=winner.policy_N,
        nash_unique=winner.unique,
        nash_responses=float(np.exp(entropy(winner.policy_N))),
        borda=tuple(int(i) for i in np.flatnonzero(best_N)),
        condorcet=condorcet_winner(probs_NN),
        borda_gap=gap,
        distance=distance,
    )
