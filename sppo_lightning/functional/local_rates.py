"""How fast INPO and EGPO close in on the regularised equilibrium, and up to which step: their linearised maps.

Near the equilibrium p a deviation of the logits is multiplied each round by a polynomial of the matrix
J = (P - 1/2) (diag(p) - p p^T): INPO by 1 - eta tau + eta J, EGPO by 1 - eta tau + eta J (1 - eta tau + eta J). With
mu the eigenvalues of J on logits up to a constant (all imaginary), KL(p || pi_t) shrinks by max |multiplier|^2 a round.
Shape letters as in `games.py`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sppo_lightning.functional.games import Array

Method = Literal["inpo", "egpo"]


def kl_factor(method: Method, probs_NN: Array, equilibrium_N: Array, eta: float, tau: float) -> float:
    """The factor by which one round multiplies KL(equilibrium || pi_t), close to the equilibrium.

    Args:
        method: "inpo" or "egpo".
        probs_NN: [N, N] one game, N at least 2.
        equilibrium_N: [N] its regularised equilibrium for `tau` and the reference, as probabilities.
        eta: the step.
        tau: strength of the KL to the reference.

    Returns:
        Below 1 where the method converges.
    """
    linear, quadratic = _coefficients(method, probs_NN, equilibrium_N, tau)
    return float((np.abs(1 + eta * linear + eta**2 * quadratic) ** 2).max())


def stability_limit(method: Method, probs_NN: Array, equilibrium_N: Array, tau: float) -> float:
    """The smallest step at which the equilibrium stops attracting; the method circles beyond it.

    For INPO it is min over mu of 2 (tau - Re mu) / ((tau - Re mu)^2 + Im^2 mu).

    Args:
        method: "inpo" or "egpo".
        probs_NN: [N, N] one game, N at least 2.
        equilibrium_N: [N] its regularised equilibrium for `tau` and the reference, as probabilities.
        tau: strength of the KL to the reference.

    Returns:
        A step eta.
    """
    limits: list[float] = []
    for b, d in zip(*_coefficients(method, probs_NN, equilibrium_N, tau), strict=True):
        # |1 + eta b + eta^2 d|^2 - 1, divided by eta.
        roots = np.roots([abs(d) ** 2, 2 * (b * d.conjugate()).real, abs(b) ** 2 + 2 * d.real, 2 * b.real])
        limits.extend(root.real for root in roots if abs(root.imag) < 1e-9 * abs(root) and root.real > 0)
    return float(min(limits))


def _coefficients(
    method: Method, probs_NN: Array, equilibrium_N: Array, tau: float
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """[N - 1] each: the multiplier is 1 + eta linear + eta^2 quadratic, for each eigenvalue mu."""
    N = len(probs_NN)
    J = (probs_NN - 0.5) @ (np.diag(equilibrium_N) - np.outer(equilibrium_N, equilibrium_N))
    # J acts on logits up to a constant: an orthonormal basis of the vectors that sum to 0 stands for those.
    basis = np.linalg.svd(np.eye(N) - 1 / N)[0][:, : N - 1]
    mu = np.linalg.eigvals(basis.T @ J @ basis).astype(np.complex128)
    if method == "inpo":
        return mu - tau, np.zeros_like(mu)
    return mu - tau, mu * (mu - tau)
