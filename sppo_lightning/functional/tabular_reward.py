"""Reward models on a table: what a scalar reward, fitted again and again to the same verdicts, leads a policy to.

Names as in `tabular.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sppo_lightning.functional.bradley_terry import bradley_terry_scores_of_pairs
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.tabular import TabularMethod, check_positive, normalise


class IterativeRewardModel(TabularMethod):
    """A Bradley-Terry reward, refitted on all comparisons so far, and a policy that climbs it.

    pi_{t+1} ~ pi_t exp(eta r_t), where r_t is the fit of pairs that pi_0 .. pi_t drew, each policy's own with its own:
    the baseline of SPO (arXiv 2401.04056). The rewards settle as comparisons pile up, so the policy ends on one
    response, also where every response is beaten by another. Refitted on its newest pairs alone it is `IterativeDPO`
    with beta = 1 / eta.
    """

    def __init__(self, eta: float) -> None:
        """Initialises the method.

        Args:
            eta: step, in nats per unit of reward.
        """
        self.eta = check_positive("eta", eta)

    def rounds(self, probs_NN: Array, start_N: Array, reference_N: Array) -> Iterator[Array]:
        """See the base class; the reference is not used."""
        logps = normalise(start_N)
        compared_NN = np.zeros_like(probs_NN)
        while True:
            yield logps
            policy = np.exp(logps)
            compared_NN = compared_NN + policy[..., :, None] * policy[..., None, :]
            logps = normalise(logps + self.eta * bradley_terry_scores_of_pairs(probs_NN, compared_NN))
