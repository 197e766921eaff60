"""Time-dependent Multiplayer Nash Preference Optimization."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class TDMNPO(Objective):
    """TD-MNPO, arXiv 2509.23102, eq. 17: INPO whose pi_t is a weighted history of policies.

    The log-ratio is taken to pi_ref^a (pi_t^l0 pi_{t-1}^l1 ...)^(1-a) and the pair's margin is regressed onto eta/2. In
    the first rounds, where the history is shorter than its weights, those that exist share the weight.

    The paper's eta is the inverse of the step: eta here is 1/eta_mnpo. The official code reads the history weights from
    a key its configurations do not set, and so weights the history equally; weights given here are used. It also
    divides log-probabilities by the number of tokens but keeps a target of 67 nats, which makes the loss linear in the
    margin; `per_token` reproduces that.

    Args:
        eta: the step, in nats per unit of win rate; 1/0.0075 in the official configurations.
        anchor_weight: a, the weight of the fixed pi_ref, in [0, 1); 1/3 in the official configurations. The KL strength
            is anchor_weight/eta.
        history_weights: relative weights of pi_t, pi_{t-1}, ...; equal ones for two policies in the official code. The
            first is above 0, since a run's first round has only pi_t.
        per_token: divides the log-ratios by the response's number of tokens, as the official code does.

    Raises:
        ConfigError: a value is outside its range.
    """

    def __init__(
        self,
        eta: float = 1 / 0.0075,
        anchor_weight: float = 1 / 3,
        history_weights: Sequence[float] = (1.0, 1.0),
        per_token: bool = False,
    ) -> None:
        self.eta = checks.positive("eta", eta)
        anchor = checks.share("anchor_weight", anchor_weight)
        weights = checks.weights("history_weights", history_weights)
        if weights[0] == 0:
            raise ConfigError(
                f"model.objective.history_weights: the first weight is that of pi_t and must be above 0, got "
                f"{list(history_weights)}; a run's first round has no older policy"
            )
        history = {f"history/{j}" if j else "previous": weight for j, weight in enumerate(weights)}
        self.anchors = parts.anchor_mix(anchor, history)
        self.per_token = per_token
        self.needs = tuple(self.anchors)
        self._told_short_history = False

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (h - eta/2)^2, [M] nats^2."""
        rho_R = parts.log_ratio(inputs, self._existing(inputs), self.per_token)
        return parts.half_eta_pairs(inputs, rho_R, self.eta)

    def _existing(self, inputs: ObjectiveInputs) -> dict[str, float]:
        """The anchors of this round: those of `needs`, less the history that does not exist yet."""
        missing = {name for name in self.needs if name.startswith("history/")} - inputs.frozen_logps.keys()
        if not missing:
            return self.anchors
        if not self._told_short_history:
            self._told_short_history = True
            warnings.warn(
                f"model.objective.history_weights: this round has no {', '.join(sorted(missing))} yet; the policies "
                f"that exist share its weight",
                stacklevel=3,
            )
        known = {name: weight for name, weight in self.anchors.items() if name not in {"anchor", *missing}}
        return parts.anchor_mix(self.anchors.get("anchor", 0.0), known)
