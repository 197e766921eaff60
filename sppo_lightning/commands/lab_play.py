"""Plays one method on the games of one entry, and measures its policies on the way."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from sppo_lightning.commands.lab_config import Game
from sppo_lightning.functional.games import Array, duality_gap, kl_divergence, von_neumann_winner
from sppo_lightning.functional.regularised_games import regularised_equilibrium, regularised_gap
from sppo_lightning.functional.tabular import TabularMethod

_NUM_POINTS = 120


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What one method reached on the I games of one entry, at Q rounds spread evenly over log t.

    Attributes:
        round_Q: t, the number of updates so far; the last is `num_steps`.
        average_gap_QI: duality gap of the uniform mixture of pi_0 .. pi_{t-1}.
        last_gap_QI: duality gap of pi_t.
        average_regularised_gap_QI: the regularised game's gap of the mixture; None for a method without tau.
        last_regularised_gap_QI: the regularised game's gap of pi_t; None for a method without tau.
        kl_QI: KL(equilibrium || pi_t) in nats, of the regularised equilibrium for a method with tau, else of the von
            Neumann winner; NaN where that is not unique.
    """

    round_Q: list[int]
    average_gap_QI: Array
    last_gap_QI: Array
    average_regularised_gap_QI: Array | None
    last_regularised_gap_QI: Array | None
    kl_QI: Array


def measure(method: TabularMethod, game: Game, num_steps: int) -> Curves:
    """Plays `num_steps` updates on all games of an entry at once."""
    rounds = sorted({int(t) for t in np.geomspace(1, num_steps, _NUM_POINTS).round()})
    wanted = set(rounds)
    sum_IN = np.zeros_like(game.starts_IN)
    averages, lasts = [], []
    played = method.rounds(game.games_INN, game.starts_IN, game.references_IN)
    for t, logps_IN in enumerate(islice(played, num_steps + 1)):
        if t in wanted:
            averages.append(sum_IN / t)
            lasts.append(logps_IN)
        sum_IN = sum_IN + np.exp(logps_IN)
    average_QIN, last_QIN = np.stack(averages), np.stack(lasts)
    references_IN = np.exp(game.references_IN)

    def tau_gap(policy_QIN: Array) -> Array | None:
        if method.tau is None:
            return None
        return regularised_gap(game.games_INN, policy_QIN, method.tau, references_IN)

    return Curves(
        round_Q=rounds,
        average_gap_QI=duality_gap(game.games_INN, average_QIN),
        last_gap_QI=duality_gap(game.games_INN, np.exp(last_QIN)),
        average_regularised_gap_QI=tau_gap(average_QIN),
        last_regularised_gap_QI=tau_gap(np.exp(last_QIN)),
        kl_QI=kl_divergence(_equilibria(method, game), last_QIN),
    )


def _equilibria(method: TabularMethod, game: Game) -> Array:
    """[I, N] what the method aims at; NaN where that is not one policy."""
    if method.tau is not None:
        pairs = zip(game.games_INN, np.exp(game.references_IN), strict=True)
        return np.exp([regularised_equilibrium(probs, method.tau, reference) for probs, reference in pairs])
    winners = [von_neumann_winner(probs) for probs in game.games_INN]
    return np.stack([winner.policy_N if winner.unique else np.full_like(winner.policy_N, np.nan) for winner in winners])
