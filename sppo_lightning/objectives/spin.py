"""Self-Play Fine-Tuning."""

from __future__ import annotations

from sppo_lightning.objectives.dpo import DPO


class SPIN(DPO):
    """SPIN, arXiv 2401.01335, eq. 4.7 with the logistic loss: DPO against pi_t on given answers.

    The chosen response is the data set's answer and the rejected one the policy's own sample; the pairing rule makes
    such pairs, this loss does not look where they come from.

    Args:
        beta: inverse temperature, per nat (lambda in the paper); 0.1 in the official scripts.

    Raises:
        ConfigError: `beta` is not above 0.
    """

    def __init__(self, beta: float = 0.1) -> None:
        super().__init__(beta=beta, reference="previous")
