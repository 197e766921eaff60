"""The parts every objective is composed of: log-ratio, margin over pairs, and the links that turn them into losses.

An objective is an anchor mix, a response statistic, a target and a link. The links mask first: whatever stands in a row
or pair of weight 0 (a NaN win rate, a log-probability of -inf) is replaced before the arithmetic that could carry it
into a gradient.

Shape letters: R training rows (responses), M pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs

Metric = tuple[Tensor, Tensor]


def log_ratio(inputs: ObjectiveInputs, anchors: Mapping[str, float]) -> Tensor:
    """The log-ratio of the policy to a geometric mixture of frozen policies, rho = log pi - sum_a w_a log pi_a.

    Args:
        inputs: the batch.
        anchors: frozen policy -> its weight; the weights sum to 1.

    Returns:
        [R] nats, summed over the response's tokens. Exactly 0 where all policies agree, because the differences are
        taken before they are weighted.
    """
    missing = anchors.keys() - inputs.frozen_logps.keys()
    assert not missing, f"frozen_logps lacks {sorted(missing)}; it holds {sorted(inputs.frozen_logps)}"
    ratios = [weight * (inputs.policy_logps_R - inputs.frozen_logps[name]) for name, weight in anchors.items()]
    return torch.stack(ratios).sum(0)


def per_token(values_R: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """[R] `values_R` divided by the response's number of tokens (an empty response counts as one token)."""
    return values_R / inputs.num_tokens_R.clamp(min=1)


def margin(values_R: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """[M] the chosen row's value minus the rejected row's; 0 at pairs of weight 0."""
    chosen_M, rejected_M = chosen_and_rejected(values_R, inputs)
    return chosen_M - rejected_M


def chosen_and_rejected(values_R: Tensor, inputs: ObjectiveInputs) -> tuple[Tensor, Tensor]:
    """[M], [M] the values of the chosen and of the rejected rows; 0 at pairs of weight 0."""
    chosen_M, rejected_M = inputs.pairs_M2.unbind(1)
    return masked(values_R[chosen_M], inputs.weight_M), masked(values_R[rejected_M], inputs.weight_M)


def masked(values: Tensor, weight: Tensor) -> Tensor:
    """`values` with 0 wherever `weight` is 0, so that neither value nor gradient of a masked entry can be NaN."""
    return torch.where(weight != 0, values, torch.zeros_like(values))


def squared_rows(inputs: ObjectiveInputs, log_ratio_R: Tensor, target_R: Tensor, eta: float) -> ObjectiveOutputs:
    """The squared link on rows: (rho - target)^2.

    Args:
        inputs: the batch.
        log_ratio_R: rho, nats.
        target_R: what rho is regressed onto, nats.
        eta: the step that scales the target, for `loss_over_eta2`.

    Returns:
        loss [R] in nats^2. Metrics: `loss_over_eta2`, comparable across steps, and `log_ratio_over_target`, how far
        the policy has moved compared with how far it is asked to.
    """
    weight_R = inputs.weight_R
    log_ratio_R, target_R = masked(log_ratio_R, weight_R), masked(target_R, weight_R)
    loss_R = (log_ratio_R - target_R).square()
    metrics = {
        "loss_over_eta2": (loss_R.detach() / eta**2, weight_R),
        "log_ratio_over_target": ratio_of_sums(log_ratio_R, target_R, weight_R),
    }
    return ObjectiveOutputs(loss=loss_R, weight=weight_R, metrics=metrics)


def squared_pairs(inputs: ObjectiveInputs, margin_M: Tensor, target_M: Tensor, eta: float) -> ObjectiveOutputs:
    """The squared link on pairs: (h - target)^2.

    Args:
        inputs: the batch.
        margin_M: h, the chosen row's log-ratio minus the rejected row's, nats.
        target_M: what h is regressed onto, nats; [M] or a scalar tensor.
        eta: the step that scales the target, for `loss_over_eta2`.

    Returns:
        loss [M] in nats^2. Metrics: `loss_over_eta2`, `margin_over_target`, and those of `margin_metrics`.
    """
    weight_M = inputs.weight_M
    margin_M, target_M = masked(margin_M, weight_M), masked(target_M.expand_as(margin_M), weight_M)
    loss_M = (margin_M - target_M).square()
    metrics = {
        "loss_over_eta2": (loss_M.detach() / eta**2, weight_M),
        "margin_over_target": ratio_of_sums(margin_M, target_M, weight_M),
        **margin_metrics(margin_M, weight_M),
    }
    return ObjectiveOutputs(loss=loss_M, weight=weight_M, metrics=metrics)


def logistic_pairs(
    inputs: ObjectiveInputs, margin_M: Tensor, logit_M: Tensor, rejected_share: float | Tensor
) -> ObjectiveOutputs:
    """The logistic link on pairs: -(1 - s) log sigmoid(z) - s log sigmoid(-z).

    Args:
        inputs: the batch.
        margin_M: h, the chosen row's log-ratio minus the rejected row's, for the metrics.
        logit_M: z, what the link sees: h scaled, and perhaps shifted.
        rejected_share: s in [0, 1], the probability that the label is the wrong way round; [M] or a number.

    Returns:
        loss [M]. Metrics: those of `margin_metrics`.
    """
    weight_M = inputs.weight_M
    logit_M = masked(logit_M, weight_M)
    loss_M = -(1 - rejected_share) * logsigmoid(logit_M) - rejected_share * logsigmoid(-logit_M)
    return ObjectiveOutputs(loss=loss_M, weight=weight_M, metrics=margin_metrics(margin_M, weight_M))


def margin_metrics(margin_M: Tensor, weight_M: Tensor) -> dict[str, Metric]:
    """`margin`, the mean of h, and `accuracy`, the share of pairs with h > 0 (h = 0 counts one half)."""
    margin_M = masked(margin_M.detach(), weight_M)
    return {"margin": (margin_M, weight_M), "accuracy": ((1 + margin_M.sign()) / 2, weight_M)}


def ratio_of_sums(numerator: Tensor, denominator: Tensor, weight: Tensor) -> Metric:
    """A metric whose weighted mean over any batches is sum |numerator| / sum |denominator| over all of them.

    Returns:
        ([1], [1]): this batch's ratio, weighted with its denominator. (0, 0) where the denominator is 0.
    """
    top = (weight * numerator.detach().abs()).sum().reshape(1)
    bottom = (weight * denominator.detach().abs()).sum().reshape(1)
    return torch.where(bottom > 0, top / bottom, torch.zeros_like(top)), bottom
