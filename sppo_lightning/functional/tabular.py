"""Self-play on a table: every method's exact update of log pi, without sampling, training or a language model.

A method is a generator of rounds that reads like its algorithm box; a new method is a subclass of `TabularMethod`. Here
are the base and the methods without a reference; `tabular_regularised.py`, `tabular_dpo.py`, `tabular_reward.py` and
`tabular_queue.py` hold the others.

Names: `logps` are log pi_t [..., N] in nats and `eta` is the step (INPO's and MNPO's papers print its inverse). Other
shape letters as in `games.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import numpy as np
from scipy.special import log_softmax

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.games import Array, win_rates


class TabularMethod(ABC):
    """A rule that makes the next policy from the games and the policies so far.

    Attributes:
        tau: strength of the KL to the reference where the method solves the regularised game, else None.
    """

    tau: float | None = None

    @abstractmethod
    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """Yields pi_0 (the start), pi_1, pi_2, ... without end.

        Args:
            probs_NN: [..., N, N] the games.
            start_N: [..., N] log pi_0.
            reference_N: [..., N] log pi_ref; methods without one ignore it.

        Yields:
            [..., N] normalised log-probabilities in nats.
        """

    def __repr__(self) -> str:
        # What is off, such as label_smoothing=0.0, would only lengthen every table and legend.
        given = [f"{key}={value}" for key, value in vars(self).items() if value not in (None, False)]
        return f"{type(self).__name__}({', '.join(given)})"


def play(method: TabularMethod, probs_NN: Array, start_N: Array, reference_N: Array, num_steps: int) -> Array:
    """Plays a method for a number of rounds.

    Args:
        method: the rule.
        probs_NN: [..., N, N] the games.
        start_N: [..., N] log pi_0.
        reference_N: [..., N] log pi_ref.
        num_steps: number of updates, T.

    Returns:
        [T + 1, ..., N] log pi_0 .. log pi_T.
    """
    return np.stack(list(islice(method.rounds(probs_NN, start_N, reference_N), num_steps + 1)))


class SPPO(TabularMethod):
    """Multiplicative weights, what SPPO (arXiv 2405.00675) approximates: pi_{t+1} ~ pi_t exp(eta P(y > pi_t)).

    The average of pi_0 .. pi_{T-1} converges at rate 1/sqrt(T) for eta ~ 1/sqrt(T); the last iterate circles.
    """

    def __init__(self, eta: float) -> None:
        """Initialises the method.

        Args:
            eta: step, in nats per win rate.
        """
        self.eta = check_positive("eta", eta)

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class; the reference is not used."""
        logps = normalise(start_N)
        while True:
            yield logps
            logps = normalise(logps + self.eta * win_rates(probs_NN, np.exp(logps)))


def hedge_bound(start_N: Array, eta: float, num_steps: int) -> Array:
    """What SPPO guarantees for every game: max_i (P p)_i - 1/2 <= D / (eta T) + eta / 8, with D = max_i -log pi_0(i).

    Here p is the average of pi_0 .. pi_{T-1}; the duality gap is at most twice the bound. Freund and Schapire, Adaptive
    game playing using multiplicative weights, 1999, with Hoeffding's lemma for win rates in [0, 1].

    Args:
        start_N: [..., N] log pi_0.
        eta: the step.
        num_steps: number of policies in the average, T.

    Returns:
        [...] a win rate above 1/2.
    """
    return -start_N.min(axis=-1) / (eta * num_steps) + eta / 8


class ONPO(TabularMethod):
    """Optimistic multiplicative weights, ONPO (arXiv 2502.16852, Algorithm 1): bets that the last win rates come again.

    pi_t ~ pi'_t exp(eta P(y > pi_{t-1})), then pi'_{t+1} ~ pi'_t exp(eta P(y > pi_t)). The average converges at rate
    1/T, and the last iterate converges for eta <= 1/8 where the equilibrium is unique.
    """

    def __init__(self, eta: float) -> None:
        """Initialises the method.

        Args:
            eta: step, in nats per win rate.
        """
        self.eta = check_positive("eta", eta)

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class; the reference is not used."""
        auxiliary = logps = normalise(start_N)
        while True:
            yield logps
            rates = win_rates(probs_NN, np.exp(logps))
            auxiliary = normalise(auxiliary + self.eta * rates)
            logps = normalise(auxiliary + self.eta * rates)


def normalise(logits_N: Array) -> Array:
    """[..., N] log-probabilities in nats from log-probabilities up to a constant."""
    return log_softmax(logits_N, axis=-1)


def check_positive(name: str, value: float) -> float:
    """Returns the value of a method's argument, or refuses it.

    Raises:
        ConfigError: it is not a positive finite number.
    """
    if not 0 < value < np.inf:
        raise ConfigError(f"{name} must be a positive number, got {value}")
    return value
