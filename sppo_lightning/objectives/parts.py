"""The parts every objective is composed of: log-ratio, margin over pairs, and the links that turn them into losses.

An objective is an anchor mix, a response statistic, a target and a link. Whatever stands in a row or pair of weight 0
(a NaN win rate, a log-probability of -inf) is replaced before any arithmetic that could carry it into a gradient: pairs
where their rows are gathered (`margin`, `chosen_and_rejected`), rows and targets where they enter a link.

Shape letters: R training rows (responses), M pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sppo_lightning.errors import ConfigError
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs

Metric = tuple[Tensor, Tensor]


def anchor_mix(anchor: float, others: Mapping[str, float]) -> dict[str, float]:
    """The geometric mixture a log-ratio is taken to: the fixed pi_ref, and other frozen policies for the rest.

    Args:
        anchor: weight of the fixed pi_ref, in [0, 1].
        others: frozen policy -> its relative weight; together they take 1 - `anchor`.

    Returns:
        Frozen policy -> weight; the weights sum to 1, and policies of weight 0 are left out.
    """
    total = sum(others.values())
    mix = {"anchor": anchor, **{name: (1 - anchor) * weight / total for name, weight in others.items()}}
    return {name: weight for name, weight in mix.items() if weight > 0}


def log_ratio(inputs: ObjectiveInputs, anchors: Mapping[str, float], per_token: bool = False) -> Tensor:
    """The log-ratio of the policy to a geometric mixture of frozen policies, rho = log pi - sum_a w_a log pi_a.

    Args:
        inputs: the batch.
        anchors: frozen policy -> its weight; the weights sum to 1.
        per_token: divides by the response's number of tokens.

    Returns:
        [R] nats, summed over the response's tokens or per token. Exactly 0 where all policies agree, because the
        differences are taken before they are weighted.
    """
    missing = anchors.keys() - inputs.frozen_logps.keys()
    assert not missing, f"frozen_logps lacks {sorted(missing)}; it holds {sorted(inputs.frozen_logps)}"
    ratios = [weight * (inputs.policy_logps_R - inputs.frozen_logps[name]) for name, weight in anchors.items()]
    ratio_R = torch.stack(ratios).sum(0)
    return mean_per_token(ratio_R, inputs) if per_token else ratio_R


def mean_per_token(logps_R: Tensor, inputs: ObjectiveInputs) -> Tensor:
    """[R] nats per token (an empty response counts as one token)."""
    return logps_R / inputs.num_tokens_R.clamp(min=1)


def scores(inputs: ObjectiveInputs, objective: str) -> Tensor:
    """[R] how far each response's score lies above the mean of those it was compared with.

    Args:
        inputs: the batch.
        objective: who asks, for the error.

    Raises:
        ConfigError: the oracle gives no scores.
    """
    if inputs.score_R is None:
        raise ConfigError(
            f"model.objective: {objective} needs a score of every response (score_R), and this batch has none; use an "
            "oracle that gives scores, or SPPO or SPO, which need only win rates"
        )
    return inputs.score_R


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
        margin_M: h, from `margin`: the chosen row's log-ratio minus the rejected row's, nats.
        target_M: what h is regressed onto, nats.
        eta: the step that scales the target, for `loss_over_eta2`.

    Returns:
        loss [M] in nats^2. Metrics: `loss_over_eta2`, `margin_over_target`, and those of `margin_metrics`.
    """
    weight_M = inputs.weight_M
    target_M = masked(target_M, weight_M)
    loss_M = (margin_M - target_M).square()
    metrics = {
        "loss_over_eta2": (loss_M.detach() / eta**2, weight_M),
        "margin_over_target": ratio_of_sums(margin_M, target_M, weight_M),
        **margin_metrics(margin_M, weight_M),
    }
    return ObjectiveOutputs(loss=loss_M, weight=weight_M, metrics=metrics)


def half_eta_pairs(inputs: ObjectiveInputs, log_ratio_R: Tensor, eta: float) -> ObjectiveOutputs:
    """The squared link on pairs with the constant target eta/2.

    For pairs drawn independently from pi_t and labelled by the oracle, the minimiser is the exact
    multiplicative-weights step eta, without a partition function. Best-and-worst pairs make it about twice as long.

    Args:
        inputs: the batch.
        log_ratio_R: rho, nats.
        eta: the step.

    Returns:
        As `squared_pairs`.
    """
    margin_M = margin(log_ratio_R, inputs)
    return squared_pairs(inputs, margin_M, torch.full_like(margin_M, eta / 2), eta)


def squared_both(
    inputs: ObjectiveInputs, log_ratio_R: Tensor, target_M: Tensor, eta: float, row_weight: float
) -> ObjectiveOutputs:
    """The squared link on both rows of a pair: w (rho_chosen - target)^2 + w (rho_rejected + target)^2.

    Args:
        inputs: the batch.
        log_ratio_R: rho, nats.
        target_M: what the chosen row's rho is regressed onto, and the rejected row's with the other sign, nats.
        eta: the step that scales the target, for `loss_over_eta2`.
        row_weight: w, 1/2 for the mean of the two rows, 1 for their sum.

    Returns:
        loss [M] in nats^2. Metrics: `loss_over_eta2`, `margin_over_target`, and those of `margin_metrics`.
    """
    weight_M = inputs.weight_M
    chosen_M, rejected_M = chosen_and_rejected(log_ratio_R, inputs)
    target_M = masked(target_M, weight_M)
    loss_M = row_weight * ((chosen_M - target_M).square() + (rejected_M + target_M).square())
    metrics = {
        "loss_over_eta2": (loss_M.detach() / eta**2, weight_M),
        "margin_over_target": ratio_of_sums(chosen_M - rejected_M, 2 * target_M, weight_M),
        **margin_metrics(chosen_M - rejected_M, weight_M),
    }
    return ObjectiveOutputs(loss=loss_M, weight=weight_M, metrics=metrics)


def logistic_pairs(
    inputs: ObjectiveInputs, margin_M: Tensor, logit_M: Tensor, rejected_share: float | Tensor
) -> ObjectiveOutputs:
    """The logistic link on pairs: -(1 - s) log sigmoid(z) - s log sigmoid(-z).

    Args:
        inputs: the batch.
        margin_M: h, from `margin`: the chosen row's log-ratio minus the rejected row's, for the metrics.
        logit_M: z, what the link sees: h scaled, and perhaps shifted.
        rejected_share: s in [0, 1], the probability that the label is the wrong way round; [M] or a number.

    Returns:
        loss [M]. Metrics: those of `margin_metrics`.
    """
    loss_M = -(1 - rejected_share) * logsigmoid(logit_M) - rejected_share * logsigmoid(-logit_M)
    return ObjectiveOutputs(loss=loss_M, weight=inputs.weight_M, metrics=margin_metrics(margin_M, inputs.weight_M))


def policy_gradient_rows(inputs: ObjectiveInputs, advantage_R: Tensor) -> ObjectiveOutputs:
    """The REINFORCE link on rows: -advantage log pi, whose value means nothing and whose gradient is the estimate.

    Args:
        inputs: the batch.
        advantage_R: in units of win rate; no gradient flows through it.

    Returns:
        loss [R]. Metric: `advantage_abs`, the mean size of the advantage.
    """
    weight_R = inputs.weight_R
    advantage_R = masked(advantage_R.detach(), weight_R)
    loss_R = -advantage_R * masked(inputs.policy_logps_R, weight_R)
    return ObjectiveOutputs(loss=loss_R, weight=weight_R, metrics={"advantage_abs": (advantage_R.abs(), weight_R)})


def margin_metrics(margin_M: Tensor, weight_M: Tensor) -> dict[str, Metric]:
    """`margin`, the mean of h, and `accuracy`, the share of pairs with h > 0 (h = 0 counts one half)."""
    margin_M = margin_M.detach()
    return {"margin": (margin_M, weight_M), "accuracy": ((1 + margin_M.sign()) / 2, weight_M)}


def ratio_of_sums(numerator: Tensor, denominator: Tensor, weight: Tensor) -> Metric:
    """A metric whose weighted mean over any batches is sum |numerator| / sum |denominator| over all of them.

    Returns:
        ([1], [1]): this batch's ratio, weighted with its denominator. (0, 0) where the denominator is 0.
    """
    top = (weight * numerator.detach().abs()).sum().reshape(1)
    bottom = (weight * denominator.detach().abs()).sum().reshape(1)
    return torch.where(bottom > 0, top / bottom, torch.zeros_like(top)), bottom
