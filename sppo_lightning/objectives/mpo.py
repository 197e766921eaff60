"""Magnetic Preference Optimization."""

from __future__ import annotations

from sppo_lightning.objectives import checks
from sppo_lightning.objectives.inpo import INPO


class MPO(INPO):
    """MPO, arXiv 2410.16714: a magnetic mirror-descent step, pi ~ (pi_t pi_ref^(eta tau) e^(eta P))^(1/(1 + eta tau)).

    This is INPO's step of length eta/(1 + eta tau), so any eta and tau are allowed. The paper takes the step by policy
    gradient and moves the magnet pi_ref to pi_t every few rounds; the second is the anchor's schedule, not the loss.

    Args:
        eta: the step before the magnet's pull, in nats per unit of win rate. INPO's default: the paper's own values
            belong to its policy gradient.
        tau: strength of the magnet pi_ref, in units of win rate per nat.

    Raises:
        ConfigError: `eta` is not above 0, or `tau` is negative.
    """

    def __init__(self, eta: float = 1 / 0.0075, tau: float = 0.0025) -> None:
        eta, tau = checks.positive("eta", eta), checks.non_negative("tau", tau)
        super().__init__(eta=eta / (1 + eta * tau), tau=tau)
