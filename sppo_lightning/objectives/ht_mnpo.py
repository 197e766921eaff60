"""Heterogeneous Multiplayer Nash Preference Optimization."""

from __future__ import annotations

from collections.abc import Sequence

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class HTMNPO(Objective):
    """HT-MNPO, arXiv 2509.23102, eq. 18: each of n players has its own policy and oracle, and the others as anchors.

    The log-ratio is taken to pi_ref^a (the other players' policies)^(1-a) and the margin of a pair, labelled by the
    player's own oracle, is regressed onto eta/2. The game is general-sum, and the authors promise no convergence.

    "player/1" ... "player/n-1" are the players after the one in training, counted on in turn, so one objective serves
    them all. eta here is the inverse of the paper's.

    Args:
        eta: the step, in nats per unit of win rate; 1/0.0075 in the official configurations of two of three players.
        anchor_weight: a, the weight of the fixed pi_ref, in [0, 1); 1/3 in the official configurations.
        player_weights: relative weights of the other players, as many as there are; two equal ones (three players) in
            the paper.
        per_token: divides the log-ratios by the response's number of tokens, as the official code does; see TDMNPO.

    Raises:
        ConfigError: a value is outside its range.
    """

    def __init__(
        self,
        eta: float = 1 / 0.0075,
        anchor_weight: float = 1 / 3,
        player_weights: Sequence[float] = (1.0, 1.0),
        per_token: bool = False,
    ) -> None:
        self.eta = checks.positive("eta", eta)
        anchor = checks.share("anchor_weight", anchor_weight)
        weights = checks.weights("player_weights", player_weights)
        self.anchors = parts.anchor_mix(anchor, {f"player/{i}": weight for i, weight in enumerate(weights, start=1)})
        self.per_token = per_token
        self.needs = tuple(self.anchors)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (h - eta/2)^2, [M] nats^2."""
        return parts.half_eta_pairs(inputs, parts.log_ratio(inputs, self.anchors, self.per_token), self.eta)
