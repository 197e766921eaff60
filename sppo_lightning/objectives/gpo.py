"""General Preference Optimization."""

from __future__ import annotations

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class GPO(Objective):
    """GPO, arXiv 2410.02197: SPPO with a real-valued preference score in place of the win rate.

    The score of a response is the mean over the prompt's responses of s(y, y') = -s(y', y), so that 0 means indifferent
    and no 1/2 is subtracted. The official repository makes these scores (`compute_score_from_raw.py`) but lacks the
    trainer of its loss `sppo_score`; the loss here follows from them and the paper.

    Args:
        eta: the step, in nats per unit of score; 1000 in the official scripts (their `beta` 0.001 is 1/eta).

    Raises:
        ConfigError: `eta` is not above 0; or, in use, the oracle gives no scores.
    """

    needs = ("previous",)
    reads_scores = True

    def __init__(self, eta: float = 1000.0) -> None:
        self.eta = checks.positive("eta", eta)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (log pi/pi_t - eta s)^2, [R] nats^2."""
        rho_R = parts.log_ratio(inputs, {"previous": 1.0})
        return parts.squared_rows(inputs, rho_R, self.eta * parts.scores(inputs, "GPO"), self.eta)
