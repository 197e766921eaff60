"""Preference games: who wins, and how far a policy is from not losing to anybody.

A game is a matrix P [N, N] with P[i, j] = P(response i beats response j), P + P^T = 1 and 1/2 on the diagonal: a
symmetric two-player constant-sum game of value 1/2. Its symmetric equilibrium is the von Neumann winner.

NumPy in float64 rather than torch: nothing here is differentiated, the games are small, the linear program's solver
(HiGHS, through SciPy) speaks NumPy, and gaps near 1e-12 must not depend on a default dtype.

Shape letters: N responses of one game. A leading `...` is any number of games, seeds or rounds that broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.special import xlogy

from sppo_lightning.errors import DataError

Array = NDArray[np.float64]

# Preferences and probabilities nearer than this count as tied where an equilibrium's uniqueness is decided: above the
# rounding of float32 preferences (6e-8), far above the solver's 1e-9.
_TIE = 1e-6
# The dual simplex at this tolerance solved every nearly tied game tried; at its default it left gaps above 1e-7.
_SOLVER = {
    "method": "highs-ds",
    "options": {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9},
}
# The same tolerance as types.PreferenceMatrix: what a float32 or printed probability may be off by.
_SYMMETRY_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Equilibrium:
    """A symmetric equilibrium of one game.

    Example:
        `von_neumann_winner(rps(0.9, 0.7, 0.8))` has `policy_N` (2/9, 3/9, 4/9), `value` 0.5 and `unique` True.

    Attributes:
        policy_N: the mixture over responses that no response beats with probability above 1/2.
        value: the win rate that `policy_N` secures against every opponent, 1/2 up to rounding.
        unique: False where other mixtures are just as unbeatable, such as with tied or duplicated responses, or would
            be if preferences moved by 1e-6. `policy_N` is then one of them.
    """

    policy_N: Array
    value: float
    unique: bool


def check_game(probs_NN: ArrayLike, name: str = "P") -> Array:
    """Checks that a matrix is a preference game, and removes what rounding left of its asymmetry.

    Args:
        probs_NN: [..., N, N] P(row beats column).
        name: what the errors call it, such as a file and key.

    Returns:
        A float64 copy with P + P^T = 1 and a diagonal of 1/2 to the last bit.

    Raises:
        DataError: wrong shape, a value that is not a number in [0, 1], or P + P^T further than 1e-4 from 1. It names
            the first such entry.
    """
    try:
        probs = np.array(probs_NN, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: expected a rectangular array of numbers ({error})") from error
    if probs.ndim < 2 or probs.shape[-1] != probs.shape[-2] or probs.size == 0:
        raise DataError(
            f"{name}: a preference game has shape [N, N] (or [B, N, N] for B of them) with N >= 1, got "
            f"{list(probs.shape)}"
        )
    _refuse(name, probs, ~np.isfinite(probs), "must be a finite number")
    _refuse(name, probs, (probs < 0) | (probs > 1), "must lie in [0, 1]")
    transposed = np.swapaxes(probs, -1, -2)
    # On the diagonal this is the rule that a response ties with itself.
    _refuse(
        name,
        probs,
        np.abs(probs + transposed - 1) > _SYMMETRY_TOLERANCE,
        "and P[j, i] must add up to 1; average the judge's answer over both orders of presentation",
    )
    return 0.5 + 0.5 * (probs - transposed)


def _refuse(name: str, probs: Array, bad: NDArray[np.bool_], rule: str) -> None:
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{name}: P[{', '.join(map(str, index))}] = {probs[index]:.6g} {rule} ({int(bad.sum())} such entries)"
        )


def win_rates(probs_NN: Array, policy_N: Array) -> Array:
    """P(y beats pi) of every response y against a policy.

    Args:
        probs_NN: [..., N, N].
        policy_N: [..., N] the opponent.

    Returns:
        [..., N] in [0, 1].
    """
    return (probs_NN @ policy_N[..., None])[..., 0]


def duality_gap(probs_NN: Array, policy_N: Array) -> Array:
    """Exploitability of a policy that plays both sides: max_i (P p)_i - min_j (p^T P)_j = 2 (max_i (P p)_i - 1/2).

    Args:
        probs_NN: [..., N, N].
        policy_N: [..., N].

    Returns:
        [...] in [0, 1]; 0 exactly at an equilibrium.
    """
    return 2 * (win_rates(probs_NN, policy_N).max(axis=-1) - 0.5)


def two_policy_gap(probs_NN: Array, first_N: Array, second_N: Array) -> Array:
    """Duality gap of a pair of policies: max_i (P q)_i - min_j (p^T P)_j, the mean of the two policies' own gaps.

    Args:
        probs_NN: [..., N, N].
        first_N: [..., N] the row player p.
        second_N: [..., N] the column player q.

    Returns:
        [...] in [0, 1]; 0 exactly where (p, q) is an equilibrium.
    """
    # (p^T P)_j = 1 - (P p)_j, so the minimum over columns is one minus the best reply to p.
    return win_rates(probs_NN, second_N).max(axis=-1) + win_rates(probs_NN, first_N).max(axis=-1) - 1


def kl_divergence(policy_N: Array, logps_N: Array) -> Array:
    """KL(policy || other) in nats, where the other policy is given by log-probabilities that exp would round to 0.

    Args:
        policy_N: [..., N] probabilities; zeros are fine.
        logps_N: [..., N] finite log-probabilities in nats.

    Returns:
        [...] nats.
    """
    return (xlogy(policy_N, policy_N) - policy_N * logps_N).sum(axis=-1)


def von_neumann_winner(probs_NN: Array) -> Equilibrium:
    """The symmetric equilibrium of a game: max v subject to (p^T P)_j >= v for all j, with p a distribution.

    Args:
        probs_NN: [N, N] one game, as `check_game` returns it.

    Returns:
        The equilibrium. `value` tells what the solver left: its distance from 1/2 is at most about 1e-13, and up to
        1e-6 where preferences differ from ties by as little.
    """
    assert probs_NN.ndim == 2, f"one game at a time, got shape {probs_NN.shape}"
    N = len(probs_NN)
    A = probs_NN - 0.5
    solution = linprog(
        c=np.append(np.zeros(N), -1.0),
        A_ub=np.column_stack([-A.T, np.ones(N)]),
        b_ub=np.zeros(N),
        A_eq=np.append(np.ones(N), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * N + [(None, None)],
        **_SOLVER,
    )
    assert solution.success, f"HiGHS did not solve a program that always has a solution: {solution.message}"
    policy = np.maximum(solution.x[:N], 0)
    policy /= policy.sum()
    value = float(1 - win_rates(probs_NN, policy).max())
    return Equilibrium(policy_N=policy, value=value, unique=_has_unique_equilibrium(A))


def _has_unique_equilibrium(A: Array) -> bool:
    """Decides by strict complementarity, as the vertex that a solver returns cannot tell.

    The equilibria are the mixtures p with p^T A >= 0. Tucker's theorem (Dual systems of homogeneous linear relations,
    1956) says that one of them has p + p^T A > 0 in every coordinate, so the linear program "maximise
    sum_j min(tie, (p + p^T A)_j)" finds one. Its support S is every response that any equilibrium uses, and the
    responses outside S lose strictly. Around it the equilibria are the mixtures on S with A_SS p_S = 0: there is one
    exactly where that null space is a line.
    """
    N = len(A)
    # Variables (p, u), u_j <= tie standing for the minimum above: rows -p^T A <= 0 and u - p - p^T A <= 0.
    solution = linprog(
        c=np.append(np.zeros(N), -np.ones(N)),
        A_ub=np.block([[-A.T, np.zeros((N, N))], [-A.T - np.eye(N), np.eye(N)]]),
        b_ub=np.zeros(2 * N),
        A_eq=np.append(np.ones(N), np.zeros(N))[None],
        b_eq=[1.0],
        bounds=[(0, None)] * N + [(0, _TIE)] * N,
        **_SOLVER,
    )
    if not solution.success:
        return False  # only seen where preferences differ from ties by less than _TIE, which count as ties
    p = solution.x[:N]
    support = p > _TIE / 2
    strict = support | (p @ A > _TIE / 2)
    null_dimension = int((np.linalg.svd(A[np.ix_(support, support)], compute_uv=False) < _TIE).sum())
    return bool(strict.all()) and null_dimension == 1
