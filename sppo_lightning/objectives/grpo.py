"""Group Relative Policy Optimization on a scalar reward."""

from __future__ import annotations

import torch

from sppo_lightning.objectives import checks, groups, parts
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs

# Keeps the deviation of nearly equal rewards from dividing by nothing (TRL's value).
_LEAST_DEVIATION = 1e-4
# exp of more overflows float32 soon; a ratio this far out has long been clipped or lost.
_MAX_LOG_RATIO = 20.0


class GRPO(Objective):
    """GRPO, arXiv 2402.03300: PPO's clipped ratio to pi_t with the prompt's own rewards as the baseline.

    The advantage is (r - mean of the prompt's rows) / (their standard deviation), less tau (rho - its mean), where rho
    is log(pi/pi_ref). `scale_by_std=False, per_token=False` is Dr. GRPO, arXiv 2503.20783, times K/(K-1), the factor
    between its baseline and the leave-one-out mean that scores come with.

    Where the paper has a ratio of each token, this one has one of each response: the geometric mean of its tokens'
    ratios, as GSPO (arXiv 2507.18071). At pi = pi_t, so in the first step of a round, the gradients are GRPO's; with
    many steps a round they are GSPO's, whose `clip` is 3e-4. The KL is a part of the advantage, as in RLOO: the paper's
    estimate pi_ref/pi - log(pi_ref/pi) - 1 of each token overflows on whole responses.

    Args:
        tau: strength of the KL to the fixed pi_ref, in units of advantage per nat; 0: none.
        clip: how far the ratio may move from 1 before a step pays nothing any more.
        scale_by_std: divide by the standard deviation of the prompt's rewards, which weighs prompts by how nearly equal
            their responses are; False: do not.
        per_token: take the ratio per token, which weighs a response by 1/length; False: the whole response's.

    Raises:
        ConfigError: `tau` is negative or `clip` outside [0, 1); or, in use, the oracle gives no scores.
    """

    reads_scores = True

    every_response = True

    def __init__(self, tau: float = 0.04, clip: float = 0.2, scale_by_std: bool = True, per_token: bool = True) -> None:
        self.tau = checks.non_negative("tau", tau)
        self.clip = checks.share("clip", clip)
        self.scale_by_std = scale_by_std
        self.per_token = per_token
        self.needs = ("previous", "anchor") if self.tau else ("previous",)

    def __call__(self, inputs: ObjectiveInputs) -> ObjectiveOutputs:
        """Returns -min(s A, clip(s, 1 - clip, 1 + clip) A), s = (pi/pi_t)^(1/length) or pi/pi_t, [R].

        Metrics: `advantage_abs`, the mean size of A, and `clipped_share`, the rows that a step cannot gain from.
        """
        weight_R = inputs.weight_R
        score_R = parts.scores(inputs, "GRPO")
        advantage_R = groups.centred(score_R, inputs)
        if self.scale_by_std:
            advantage_R = advantage_R / (groups.deviation(score_R, inputs) + _LEAST_DEVIATION)
        if self.tau:
            rho_R = parts.log_ratio(inputs, {"anchor": 1.0}).detach()
            advantage_R = advantage_R - self.tau * groups.centred(rho_R, inputs)
        log_ratio_R = parts.masked(parts.log_ratio(inputs, {"previous": 1.0}, self.per_token), weight_R)
        ratio_R = log_ratio_R.clamp(max=_MAX_LOG_RATIO).exp()
        clipped_R = ratio_R.clamp(1 - self.clip, 1 + self.clip)
        gain_R = torch.minimum(ratio_R * advantage_R, clipped_R * advantage_R)
        cut_R = ratio_R.detach() * advantage_R > clipped_R.detach() * advantage_R
        metrics = {
            "advantage_abs": (advantage_R.abs(), weight_R),
            "clipped_share": (cut_R.to(weight_R.dtype), weight_R),
        }
        return ObjectiveOutputs(loss=-gain_R, weight=weight_R, metrics=metrics)
