"""Self-Play Preference Optimization."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs

# Above this step the estimate from a few responses is dominated by the best of them: at eta = 1000 it is close to
# eta * max P, far from log Z, and nearly every response is pushed down.
_MAX_UNBIASED_ETA = 2.0


class SPPO(Objective):
    """SPPO, arXiv 2405.00675: regresses log pi / pi_t of each response onto eta (P - 1/2).

    P is the response's win rate against pi_t. At pi = pi_t the gradient is -2 eta (P - 1/2) grad log pi, that of SPO's
    policy gradient but for the scale.

    The official code averages the two rows of a pair, as training does here with rows, and counts the comparison of a
    response with itself (1/2) into P, which shrinks the step by (K-1)/K.

    Args:
        eta: the step, in nats per unit of win rate. 1000 in the paper and in the official scripts (their `beta` 0.001
            is 1/eta). Targets reach eta/2, so only the ratio `log_ratio_over_target` tells how far training got.
        log_z: log of the partition function Z = E_{y ~ pi_t} exp(eta P(y)). "half_eta" replaces it by eta/2 (eq. 3.7,
            exact to first order in eta); "draws" takes log mean exp(eta P) over `num_draws` further responses of pi_t
            (eq. 3.5, for `num_draws` times K more queries a prompt); "estimate" takes it over the prompt's own K
            candidates. Both estimates are biased low and meant for eta up to 2.
        num_draws: B in eq. 3.5; with log_z draws only.

    Raises:
        ConfigError: `eta` is not above 0, `log_z` is unknown, or `num_draws` does not go with it.
    """

    needs = ("previous",)

    def __init__(
        self,
        eta: float = 1000.0,
        log_z: Literal["half_eta", "estimate", "draws"] = "half_eta",
        num_draws: int | None = None,
    ) -> None:
        self.eta = checks.positive("eta", eta)
        self.estimate_log_z = checks.one_of("log_z", log_z, ("half_eta", "estimate", "draws")) != "half_eta"
        if (log_z == "draws") != (num_draws is not None) or (num_draws is not None and num_draws < 1):
            raise ConfigError(
                f"model.objective.num_draws: log_z draws needs the number of further responses a prompt, at least 1, "
                f"and nothing else reads it; got num_draws {num_draws} with log_z {log_z}"
            )
        self.log_z_draws = num_draws or 0
        if self.estimate_log_z and self.eta > _MAX_UNBIASED_ETA:
            warnings.warn(
                f"model.objective.log_z: {log_z} is biased low for eta above {_MAX_UNBIASED_ETA:g}, and eta is "
                f"{self.eta:g}: nearly every response will be pushed down; use log_z half_eta or a smaller eta",
                stacklevel=2,
            )

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (log pi/pi_t - (eta P - log Z))^2, [R] nats^2."""
        rho_R = parts.log_ratio(inputs, {"previous": 1.0})
        if not self.estimate_log_z:
            target_R = self.eta * (inputs.win_rate_R - 0.5)  # eq. 3.7
        elif inputs.log_z_R is not None:
            target_R = self.eta * inputs.win_rate_R - inputs.log_z_R  # eq. 3.5
        else:
            raise ConfigError("model.objective.log_z: an estimate needs log_z_R of every row, and this batch has none")
        return parts.squared_rows(inputs, rho_R, target_R, self.eta)

    def log_z(self, win_rate_K: Tensor) -> float | None:
        """The log partition estimate of one prompt, log (1/K) sum_k exp(eta P_k), over its judged responses.

        Args:
            win_rate_K: P(y_k > pi_t) of all candidates or of all further draws, NaN where nothing was judged.

        Returns:
            Nats; None with log_z half_eta; NaN where no candidate was judged (its rows carry weight 0).
        """
        if not self.estimate_log_z:
            return None
        judged = win_rate_K[~win_rate_K.isnan()].double()
        return float(torch.logsumexp(self.eta * judged, 0) - math.log(len(judged))) if len(judged) else math.nan
