"""Online Identity Preference Optimization."""

from __future__ import annotations

from typing import Literal

from sppo_lightning.objectives import checks, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs


class OnlineIPO(Objective):
    """Online IPO, arXiv 2403.08635 and 2503.08942: regresses the margin to pi_ref onto the preferences over tau.

    The gradient of one batch is the mirror-descent step of the KL-regularised game, so a batch is used once. Minimised
    to the end it is a best reply instead, which cycles.

    Args:
        tau: strength of the KL to the fixed pi_ref, in units of win rate per nat (the papers' beta); 0.1 in EGPO's
            code.
        target: "win_rates" regresses onto (P(y) - P(y'))/tau, the win rates against the policy, for any pair (version
            1 in EGPO's code); "pair_prob" onto (P(y beats y') - 1/2)/tau, for pairs that are both the policy's own
            samples (version 2).
        per_token: divides the log-ratios by the response's number of tokens, as EGPO's language-model code does.

    Raises:
        ConfigError: `tau` is not above 0, or `target` is unknown.
    """

    needs = ("anchor",)

    single_step = True

    def __init__(
        self,
        tau: float = 0.1,
        target: Literal["win_rates", "pair_prob"] = "win_rates",
        per_token: bool = False,
    ) -> None:
        self.eta = 1 / checks.positive("tau", tau)
        self.from_win_rates = checks.one_of("target", target, ("win_rates", "pair_prob")) == "win_rates"
        self.reads_pair_probs = not self.from_win_rates
        self.per_token = per_token

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns (h - gap/tau)^2, [M] nats^2."""
        margin_M = parts.margin(parts.log_ratio(inputs, {"anchor": 1.0}, self.per_token), inputs)
        gap_M = parts.margin(inputs.win_rate_R, inputs) if self.from_win_rates else inputs.pair_prob_M - 0.5
        return parts.squared_pairs(inputs, margin_M, self.eta * gap_M, self.eta)
