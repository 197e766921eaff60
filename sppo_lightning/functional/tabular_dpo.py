"""DPO (arXiv 2305.18290) on a table, trained to its minimum: the Bradley-Terry fit of the pairs, tilted by 1 / beta.

Names as in `tabular.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.bradley_terry import bradley_terry_scores
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.tabular import TabularMethod, check_positive, normalise


class _DPO(TabularMethod):
    def __init__(self, beta: float = 0.1, label_smoothing: float = 0.0) -> None:
        """Initialises the method.

        Args:
            beta: inverse temperature of the implied reward, in 1 / nats; smaller is a larger step.
            label_smoothing: share of the labels that the loss takes to be wrong, in [0, 1/2).
        """
        self.beta = check_positive("beta", beta)
        if not 0 <= label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing must be at least 0 and below 1/2, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def _minimise(self, probs_NN: Array, anchor_N: Array, log_weights_N: Array) -> Array:
        """The minimum over pi of E -log sigmoid(beta (h_w - h_l)), h = log(pi / anchor), for independent pairs."""
        believed_NN = (1 - 2 * self.label_smoothing) * probs_NN + self.label_smoothing
        return normalise(anchor_N + bradley_terry_scores(believed_NN, log_weights_N) / self.beta)


class IterativeDPO(_DPO):
    """DPO again and again on pairs of its own policy, which is also the reference of the round.

    pi_{t+1} ~ pi_t exp(s / beta) with s the Bradley-Terry fit weighted by pi_t. It finds a Condorcet winner where there
    is one, and goes from corner to corner where there is none.
    """

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class; the fixed reference is not used."""
        logps = normalise(start_N)
        while True:
            yield logps
            logps = self._minimise(probs_NN, logps, logps)


class OfflineDPO(_DPO):
    """DPO once, on pairs drawn uniformly from all responses: pi ~ pi_ref exp(s / beta), the same from round 1 on.

    The fit ranks by a Borda-like score, so it can miss a Condorcet winner.
    """

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class."""
        yield normalise(start_N)
        logps = self._minimise(probs_NN, normalise(reference_N), np.zeros(probs_NN.shape[-1]))
        while True:
            yield logps
