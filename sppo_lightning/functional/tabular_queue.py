"""SPO on a table, as it is played in practice: a few draws a round, each rewarded by its win rate against a queue.

Names as in `tabular.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.tabular import TabularMethod, check_positive, normalise


class QueueSelfPlay(TabularMethod):
    """SPO, arXiv 2401.04056: the reward of a draw is 2 w - 1, w its mean preference over the last `queue_size` draws.

    The no-regret learner is Exp3-IX (Neu, arXiv 1506.03271) on the round's draws: log pi_{t+1}(y) = log pi_t(y) +
    eta * mean over draws of reward * 1[draw = y] / (pi_t(y) + eta / 2), which is right on average but for eta / 2. The
    average policy comes near the von Neumann winner; the last one circles it, as that of `tabular.SPPO`, which is the
    same with all draws of the world. A queue much longer than a round lags behind and widens the circle.
    """

    def __init__(self, eta: float, num_draws: int = 64, queue_size: int = 128, seed: int = 0) -> None:
        """Initialises the method.

        Args:
            eta: step, in nats per unit of reward.
            num_draws: draws a round.
            queue_size: recent draws that a draw is compared with, the round's own included.
            seed: of the draws.
        """
        if not 1 <= num_draws <= queue_size:
            raise ConfigError(
                f"queue_size must be at least num_draws = {num_draws}, and that at least 1; got {queue_size}"
            )
        self.eta, self.num_draws, self.queue_size, self.seed = check_positive("eta", eta), num_draws, queue_size, seed

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class; the reference is not used."""
        rng = np.random.default_rng(self.seed)
        logps = normalise(start_N)
        num_responses = logps.shape[-1]
        # Draws as one-hot rows, [..., draws, N]: sums over them are matrix products whatever the leading axes.
        queue = np.zeros((*logps.shape[:-1], 0, num_responses))
        while True:
            yield logps
            policy = np.exp(logps)
            places = (rng.random((*logps.shape[:-1], self.num_draws, 1)) > policy.cumsum(axis=-1)[..., None, :]).sum(
                axis=-1
            )
            drawn = np.eye(num_responses)[np.minimum(places, num_responses - 1)]
            queue = np.concatenate([queue, drawn], axis=-2)[..., -self.queue_size :, :]
            rates = (drawn @ probs_NN @ queue.mean(axis=-2)[..., None])[..., 0]
            estimate = ((2 * rates - 1)[..., None] * drawn).mean(axis=-2) / (policy + self.eta / 2)
            logps = normalise(logps + self.eta * estimate)
