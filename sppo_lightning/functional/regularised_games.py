"""Preference games with a price on leaving a reference policy.

J_tau(p, q) = p^T P q - tau KL(p || r) + tau KL(q || r), the game of Nash-MD (arXiv 2312.00886), INPO and EGPO. Its
equilibrium is unique, has full support where r has, and solves log p = log r + P p / tau + const.

Units: tau is in win-rate units per nat. Shape letters as in `games.py`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, logsumexp, rel_entr, softmax

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.games import Array, win_rates

_MAX_NEWTON_STEPS = 500


def regularised_value(probs_NN: Array, first_N: Array, second_N: Array, tau: float, reference_N: Array) -> Array:
    """J_tau(p, q), what the row player p gets against the column player q.

    Args:
        probs_NN: [..., N, N].
        first_N: [..., N] the row player p.
        second_N: [..., N] the column player q.
        tau: strength of the KL price.
        reference_N: [..., N] r, positive everywhere.

    Returns:
        [...]; 1/2 wherever p = q.
    """
    payoff = (first_N * win_rates(probs_NN, second_N)).sum(axis=-1)
    return payoff - tau * _kl(first_N, reference_N) + tau * _kl(second_N, reference_N)


def regularised_best_reply(probs_NN: Array, policy_N: Array, tau: float, reference_N: Array) -> Array:
    """The policy that maximises J_tau(., q): r exp(P q / tau), normalised.

    Args:
        probs_NN: [..., N, N].
        policy_N: [..., N] the opponent q.
        tau: strength of the KL price, positive.
        reference_N: [..., N] r, positive everywhere.

    Returns:
        [..., N] probabilities.
    """
    return softmax(np.log(reference_N) + win_rates(probs_NN, policy_N) / tau, axis=-1)


def regularised_gap(probs_NN: Array, policy_N: Array, tau: float, reference_N: Array) -> Array:
    """Duality gap of the regularised game for a policy that plays both sides, in closed form.

    gap_tau(p) = max_q J_tau(q, p) - min_q J_tau(p, q) = 2 [tau log sum_i r_i exp((P p)_i / tau) + tau KL(p||r) - 1/2].

    Args:
        probs_NN: [..., N, N].
        policy_N: [..., N].
        tau: strength of the KL price, positive.
        reference_N: [..., N] r, positive everywhere.

    Returns:
        [...], at least 0 (up to rounding), and 0 exactly at the regularised equilibrium.
    """
    return 2 * n_player_gap(probs_NN, policy_N, policy_N[..., None, :], tau, reference_N)


def n_player_gap(probs_NN: Array, policy_N: Array, opponents_ON: Array, tau: float, reference_N: Array) -> Array:
    """What one of n players gains by its best reply while the other n - 1 stay (MNPO, arXiv 2509.23102, eq. 9).

    The oracle is the one that the algorithm uses, the mean over opponents O of pairwise preferences:
    tau log sum_i r_i exp(mean_O (P o)_i / tau) - [mean_O p^T P o - tau KL(p || r)]. With n - 1 copies of p it is half
    of `regularised_gap`, whatever n: the symmetric n-player equilibrium is the two-player one.

    Args:
        probs_NN: [..., N, N].
        policy_N: [..., N] the player who may deviate.
        opponents_ON: [..., n - 1, N] the others.
        tau: strength of the KL price, positive.
        reference_N: [..., N] r, positive everywhere.

    Returns:
        [...], at least 0 (up to rounding).
    """
    rates_N = win_rates(probs_NN, opponents_ON.mean(axis=-2))
    best = tau * logsumexp(rates_N / tau, b=reference_N, axis=-1)
    return best - ((policy_N * rates_N).sum(axis=-1) - tau * _kl(policy_N, reference_N))


def regularised_equilibrium(probs_NN: Array, tau: float, reference_N: Array) -> Array:
    """The log-policy that solves log p = log r + P p / tau + const, by a damped Newton method.

    Deliberately none of the self-play updates, so that they can be tested against it. In logits l, with A = P - 1/2 and
    D = diag(p) - p p^T, the equation is l - log r - A softmax(l) / tau = 0 and its Jacobian I - A D / tau. A D has the
    eigenvalues of the antisymmetric D^1/2 A D^1/2, all imaginary, so the Jacobian is never singular and every step
    shortens the residual.

    Args:
        probs_NN: [N, N] one game.
        tau: strength of the KL price, positive.
        reference_N: [N] r, positive everywhere.

    Returns:
        [N] log-probabilities in nats.

    Raises:
        ConfigError: tau is so small that float64 cannot solve the equation.
    """
    A = probs_NN - 0.5
    log_reference = np.log(reference_N)

    def residual(logits: Array) -> Array:
        return logits - log_reference - A @ softmax(logits) / tau

    logits = log_reference.copy()
    error = residual(logits)
    tolerance = 1e-14 * (1 + np.abs(log_reference).max() + 0.5 / tau)
    for _ in range(_MAX_NEWTON_STEPS):
        if np.abs(error).max() < tolerance:
            return log_softmax(logits)
        policy = softmax(logits)
        jacobian = np.eye(len(A)) - A @ (np.diag(policy) - np.outer(policy, policy)) / tau
        direction = np.linalg.solve(jacobian, -error)
        scale = 1.0
        while scale > 1e-12 and np.linalg.norm(residual(logits + scale * direction)) > (
            1 - 1e-4 * scale
        ) * np.linalg.norm(error):
            scale /= 2
        logits = logits + scale * direction
        error = residual(logits)
    raise ConfigError(
        f"tau = {tau:g}: the regularised equilibrium was not found in {_MAX_NEWTON_STEPS} Newton steps (residual "
        f"{np.abs(error).max():.3g} nats); use a larger tau"
    )


def _kl(policy_N: Array, reference_N: Array) -> Array:
    return rel_entr(policy_N, reference_N).sum(axis=-1)
