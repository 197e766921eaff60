"""Extragradient Preference Optimization."""

from __future__ import annotations

from sppo_lightning.objectives.online_ipo import OnlineIPO


class EGPO(OnlineIPO):
    """EGPO, arXiv 2503.08942: online IPO taken twice a step, the second time against the half-step's policy.

    Both halves are this loss; the schedule restores weights and optimiser between them. The pair comes from a fixed,
    wide sampler (temperature 2, top-k 10 in the official code), so the policy's own probabilities do not weight it, and
    the win rates are against the policy's responses.

    Args:
        tau: strength of the KL to the fixed pi_ref, in units of win rate per nat (the paper's beta); 0.1 in the
            official code.
        per_token: divides the log-ratios by the response's number of tokens, as the official language-model code does.

    Raises:
        ConfigError: `tau` is not above 0.
    """

    waits_for = "its half-step, a schedule with two kinds of phases"

    def __init__(self, tau: float = 0.1, per_token: bool = False) -> None:
        super().__init__(tau=tau, target="win_rates", per_token=per_token)
