"""Tabular methods that pay for leaving a reference policy: their aim is the regularised equilibrium.

`tau` is the strength of the KL to the reference in win-rate units per nat, the same in every method, so that all of
them aim at the same policy. Other names as in `tabular.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.games import Array, win_rates
from sppo_lightning.functional.tabular import TabularMethod, check_positive, normalise


class _Regularised(TabularMethod):
    tau: float


class _Anchored(_Regularised):
    def __init__(self, eta: float, tau: float) -> None:
        """Initialises the method.

        Args:
            eta: step, in nats per win rate.
            tau: strength of the KL to the reference; eta * tau is the reference's weight, at most 1.
        """
        self.eta, self.tau = _anchored(eta, tau)


class INPO(_Anchored):
    """Mirror descent to the regularised equilibrium, INPO (arXiv 2407.00617).

    pi_{t+1} ~ pi_t^(1 - eta tau) pi_ref^(eta tau) exp(eta P(y > pi_t)). The last iterate converges linearly for eta
    below `local_rates.stability_limit`, and circles above it.
    """

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class."""
        logps = normalise(start_N)
        while True:
            yield logps
            anchor = _mix(logps, reference_N, self.eta * self.tau)
            logps = normalise(anchor + self.eta * win_rates(probs_NN, np.exp(logps)))


class EGPO(_Anchored):
    """Extragradient, EGPO (arXiv 2503.08942): INPO's step to a half-way policy, then again from pi_t against that one.

    The last iterate converges linearly, at small tau for steps far larger than INPO's limit.
    """

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class."""
        logps = normalise(start_N)
        while True:
            yield logps
            anchor = _mix(logps, reference_N, self.eta * self.tau)
            half = normalise(anchor + self.eta * win_rates(probs_NN, np.exp(logps)))
            logps = normalise(anchor + self.eta * win_rates(probs_NN, np.exp(half)))


class NashMD(_Regularised):
    """Nash-MD (arXiv 2312.00886): starts from the mixture with the reference and plays against it.

    m_t ~ pi_t^(1 - eta tau) pi_ref^(eta tau), then pi_{t+1} ~ m_t exp(eta P(y > m_t)). With a constant step the fixed
    point is not the regularised equilibrium, as the opponent is the mixture; with the paper's decaying steps
    eta_t = 2 / (tau (t + 2)) it is, in the limit.
    """

    def __init__(self, tau: float, eta: float | None = None) -> None:
        """Initialises the method.

        Args:
            tau: strength of the KL to the reference.
            eta: constant step, in nats per win rate, eta * tau at most 1; by default the paper's decaying steps.
        """
        self.tau = check_positive("tau", tau)
        self.eta = None if eta is None else _anchored(eta, tau)[0]

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class."""
        logps = normalise(start_N)
        step = 0
        while True:
            yield logps
            eta = self.eta if self.eta is not None else 2 / (self.tau * (step + 2))
            mixture = normalise(_mix(logps, reference_N, eta * self.tau))
            logps = normalise(mixture + eta * win_rates(probs_NN, np.exp(mixture)))
            step += 1


class MPO(_Regularised):
    """Magnetic preference optimisation, MPO (arXiv 2410.16714), the magnet being the reference.

    pi_{t+1} ~ (pi_t pi_ref^(eta tau) exp(eta P(y > pi_t)))^(1 / (1 + eta tau)): INPO with the step eta / (1 + eta tau).
    """

    def __init__(self, eta: float, tau: float) -> None:
        """Initialises the method.

        Args:
            eta: step, in nats per win rate.
            tau: strength of the KL to the reference.
        """
        self.eta, self.tau = check_positive("eta", eta), check_positive("tau", tau)

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class."""
        logps = normalise(start_N)
        pull = self.eta * self.tau
        while True:
            yield logps
            rates = win_rates(probs_NN, np.exp(logps))
            logps = normalise((logps + pull * normalise(reference_N) + self.eta * rates) / (1 + pull))


class TDMNPO(_Anchored):
    """Time-dependent MNPO (arXiv 2509.23102, eq. 17): INPO whose anchor is a weighted history of its own policies.

    pi_{t+1} ~ pi_ref^(eta tau) (prod_j pi_{t-j}^lambda_j)^(1 - eta tau) exp(eta P(y > opponent)). Minimising the
    published loss gives the win rate against pi_t; the ideal update (eq. 10) has the mixture of the history there. The
    first rounds, with less history than weights, renormalise the weights they can use.
    """

    def __init__(
        self, eta: float, tau: float, history_weights: tuple[float, ...] = (1.0,), mixture_opponent: bool = False
    ) -> None:
        """Initialises the method.

        Args:
            eta: step, in nats per win rate (1 / the paper's eta).
            tau: strength of the KL to the reference; eta * tau is the paper's ratio, at most 1.
            history_weights: lambda_0 (of pi_t), lambda_1 (of pi_{t-1}), ...; normalised to sum to 1.
            mixture_opponent: compare with the weighted mixture of the history (eq. 10) instead of pi_t (eq. 17).
        """
        super().__init__(eta, tau)
        weights = np.asarray(history_weights, dtype=np.float64)
        if weights.ndim != 1 or weights.size == 0 or not np.isfinite(weights).all() or (weights < 0).any():
            raise ConfigError(f"history_weights must be a list of numbers that are at least 0, got {history_weights}")
        if weights[0] == 0:
            raise ConfigError(
                f"history_weights[0], the weight of the newest policy, must be above 0, got {history_weights}"
            )
        self.history_weights = tuple(float(weight) for weight in weights)
        self.mixture_opponent = mixture_opponent

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class."""
        logps = normalise(start_N)
        history: deque[Array] = deque(maxlen=len(self.history_weights))
        while True:
            yield logps
            history.appendleft(logps)
            weights = np.array(self.history_weights[: len(history)])
            weights /= weights.sum()
            anchor = _mix(np.tensordot(weights, np.stack(history), axes=1), reference_N, self.eta * self.tau)
            opponent = np.tensordot(weights, np.exp(history), axes=1) if self.mixture_opponent else np.exp(logps)
            logps = normalise(anchor + self.eta * win_rates(probs_NN, opponent))


class OnlineIPO(_Regularised):
    """Online IPO (arXiv 2403.08635) with every round trained to its minimum: pi_{t+1} ~ pi_ref exp(P(y > pi_t) / tau).

    That is the regularised best reply, for both forms of the loss (pairs from pi_t with their preference as the target,
    or any pairs with the difference of win rates), and best replies to the last policy chase each other in a circle at
    small tau. One gradient step a round instead is INPO's update.
    """

    def __init__(self, tau: float) -> None:
        """Initialises the method.

        Args:
            tau: strength of the KL to the reference.
        """
        self.tau = check_positive("tau", tau)

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class."""
        logps = normalise(start_N)
        while True:
            yield logps
            logps = normalise(reference_N + win_rates(probs_NN, np.exp(logps)) / self.tau)


def _mix(logps_N: Array, reference_N: Array, weight: float) -> Array:
    """The geometric mixture, not normalised."""
    return (1 - weight) * logps_N + weight * reference_N


def _anchored(eta: float, tau: float) -> tuple[float, float]:
    if check_positive("eta", eta) * check_positive("tau", tau) > 1 + 1e-9:  # where one is the inverse of the other
        raise ConfigError(
            f"eta * tau is the reference's share of the next policy and must be at most 1, got {eta:g} * {tau:g}"
        )
    return eta, tau
