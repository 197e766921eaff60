"""What every objective promises, checked on every concrete subclass the package holds."""

import math
from dataclasses import fields, replace
from functools import partial

import pytest
import torch

from sppo_lightning import objectives
from sppo_lightning.objectives import DPO, GRPO, IPO, SPO, SPPO, TDMNPO, KTOPair, OnlineIPO
from sppo_lightning.types import ObjectiveInputs

from .catalogue import all_objectives, gradient

# Settings that take another path through the code than the defaults.
VARIANTS = [
    partial(SPPO, eta=1.0, log_z="estimate"),
    partial(SPO, baseline="leave_one_out"),
    partial(OnlineIPO, target="pair_prob"),
    partial(IPO, per_token=True),
    partial(GRPO, tau=0.0, scale_by_std=False, per_token=False),
    partial(DPO, label_smoothing=0.1),
]


def name_of(make):
    """`IPO` for the class, `IPO, per_token=True` for a variant of it."""
    if not isinstance(make, partial):
        return make.__name__
    return ", ".join([make.func.__name__, *(f"{key}={value}" for key, value in make.keywords.items())])


EVERY = pytest.mark.parametrize("make", [*all_objectives(), *VARIANTS], ids=name_of)
PER_ROW = ("policy_logps_R", "num_tokens_R", "win_rate_R", "prompt_R", "weight_R", "log_z_R", "score_R")
PER_PAIR = ("pairs_M2", "pair_prob_M", "weight_M")


def is_per_pair(objective, inputs):
    """Whether the losses belong to pairs rather than rows."""
    return objective(inputs).weight is inputs.weight_M


def take(inputs: ObjectiveInputs, rows: torch.Tensor, pairs: torch.Tensor) -> ObjectiveInputs:
    """The batch of these rows and pairs, in this order; every row of a taken pair must be taken."""
    position_R = torch.full((len(inputs.win_rate_R),), -1)
    position_R[rows] = torch.arange(len(rows))
    changes = {name: getattr(inputs, name)[rows] for name in PER_ROW}
    changes |= {name: getattr(inputs, name)[pairs] for name in PER_PAIR}
    changes["pairs_M2"] = position_R[changes["pairs_M2"]]
    changes["frozen_logps"] = {name: logps_R[rows] for name, logps_R in inputs.frozen_logps.items()}
    changes["policy_logps_R"] = changes["policy_logps_R"].detach().requires_grad_()
    return replace(inputs, **changes)


def means(outputs_of_batches):
    """The metrics as training logs them: weighted means over all batches."""
    logged = {}
    for name in outputs_of_batches[0].metrics:
        pairs = [outputs.metrics[name] for outputs in outputs_of_batches]
        total = sum((values * weights).sum().item() for values, weights in pairs)
        logged[name] = total / sum(weights.sum().item() for _, weights in pairs)
    return logged


def test_the_catalogue_is_what_the_package_exports():
    exported = {name for name in objectives.__all__ if name != "Objective"}
    assert {cls.__name__ for cls in all_objectives()} == exported


@EVERY
def test_shapes_and_weights(random_inputs, make):
    objective = make()
    inputs = random_inputs(objective.needs)
    outputs = objective(inputs)
    assert outputs.weight is inputs.weight_R or outputs.weight is inputs.weight_M
    assert outputs.loss.shape == outputs.weight.shape
    assert outputs.loss.isfinite().all()
    assert gradient(objective, inputs).isfinite().all()
    assert gradient(objective, inputs).abs().sum() > 0


@EVERY
def test_metrics_are_detached_pairs_of_values_and_weights(random_inputs, make):
    objective = make()
    outputs = objective(random_inputs(objective.needs))
    assert outputs.metrics
    for values, weights in outputs.metrics.values():
        assert values.shape == weights.shape
        assert not values.requires_grad
        assert not weights.requires_grad
        assert values.isfinite().all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(random_inputs, make, dtype):
    objective = make()
    inputs = random_inputs(objective.needs, dtype=dtype)
    outputs = objective(inputs)
    assert outputs.loss.dtype == dtype
    assert {values.dtype for values, _ in outputs.metrics.values()} == {dtype}


@EVERY
def test_needs_are_what_the_loss_reads(random_inputs, make):
    objective = make()
    inputs = random_inputs(objective.needs)
    loss = objective(inputs).loss.detach()
    for name in objective.needs:
        shifted = {**inputs.frozen_logps, name: inputs.frozen_logps[name] + inputs.win_rate_R}
        assert not torch.equal(objective(replace(inputs, frozen_logps=shifted)).loss, loss)


@EVERY
def test_a_missing_policy_is_an_error(random_inputs, make):
    objective = make()
    inputs = random_inputs(objective.needs)
    for name in objective.needs:
        if isinstance(objective, TDMNPO) and name.startswith("history/"):
            continue  # a run's first rounds have a shorter history
        others = {other: logps_R for other, logps_R in inputs.frozen_logps.items() if other != name}
        with pytest.raises(AssertionError, match=name):
            objective(replace(inputs, frozen_logps=others))


@EVERY
def test_masked_rows_and_pairs_are_as_if_absent(random_inputs, make):
    # Prompt 1 (rows 3 and 4, pair 2) and row 2 with pair 1 carry weight 0 and nothing but rubbish.
    objective = make()
    clean = random_inputs(objective.needs)
    dead_rows, dead_pairs = torch.tensor([2, 3, 4]), torch.tensor([1, 2])

    def spoil(values: torch.Tensor, index: torch.Tensor, rubbish: float) -> torch.Tensor:
        return values.detach().index_fill(0, index, rubbish)

    for policy_logp, frozen_logp in ((-math.inf, -math.inf), (-math.inf, math.nan), (math.nan, -1.0)):
        inputs = replace(
            clean,
            policy_logps_R=spoil(clean.policy_logps_R, dead_rows, policy_logp).requires_grad_(),
            frozen_logps={name: spoil(x, dead_rows, frozen_logp) for name, x in clean.frozen_logps.items()},
            weight_R=spoil(clean.weight_R, dead_rows, 0.0),
            weight_M=spoil(clean.weight_M, dead_pairs, 0.0),
            win_rate_R=spoil(clean.win_rate_R, dead_rows, math.nan),
            pair_prob_M=spoil(clean.pair_prob_M, dead_pairs, math.nan),
            log_z_R=spoil(clean.log_z_R, dead_rows, math.nan),
            score_R=spoil(clean.score_R, dead_rows, math.inf),
            num_tokens_R=clean.num_tokens_R.index_fill(0, dead_rows, 0),
        )
        outputs = objective(inputs)
        assert outputs.loss.isfinite().all()
        grad_R = gradient(objective, inputs)
        assert torch.equal(grad_R[dead_rows], torch.zeros(3, dtype=torch.float64))
        live_rows, live_pairs = torch.tensor([0, 1, 5, 6, 7, 8, 9]), torch.tensor([0, 3])
        without = take(clean, live_rows, live_pairs)
        torch.testing.assert_close(grad_R[live_rows], gradient(objective, without), rtol=1e-12, atol=1e-15)
        assert means([outputs]) == pytest.approx(means([objective(without)]), rel=1e-12)


@EVERY
def test_a_batch_of_masked_rows_teaches_nothing(random_inputs, make):
    objective = make()
    inputs = random_inputs(objective.needs)
    nan_R = torch.full_like(inputs.win_rate_R, math.nan)
    inputs = replace(inputs, weight_R=0 * inputs.weight_R, weight_M=0 * inputs.weight_M, win_rate_R=nan_R)
    outputs = objective(inputs)
    assert outputs.loss.isfinite().all()
    assert gradient(objective, inputs).abs().sum() == 0
    assert all(values.isfinite().all() for values, _ in outputs.metrics.values())
    assert all(weights.sum() == 0 for _, weights in outputs.metrics.values())


@EVERY
def test_order_does_not_matter(random_inputs, make):
    objective = make()
    inputs = random_inputs(objective.needs)
    generator = torch.Generator().manual_seed(5)
    rows, pairs = torch.randperm(10, generator=generator), torch.randperm(4, generator=generator)
    shuffled = take(inputs, rows, pairs)
    order = pairs if is_per_pair(objective, inputs) else rows
    torch.testing.assert_close(objective(shuffled).loss, objective(inputs).loss[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(objective, shuffled), gradient(objective, inputs)[rows], rtol=1e-9, atol=1e-12)
    assert means([objective(shuffled)]) == pytest.approx(means([objective(inputs)]), rel=1e-12)


# KTOPair's KL is a mean over the pairs of the call, as its docstring says.
@pytest.mark.parametrize("make", [*(cls for cls in all_objectives() if cls is not KTOPair), *VARIANTS], ids=name_of)
def test_splitting_a_batch_by_prompt_changes_nothing(random_inputs, make):
    objective = make()
    inputs = random_inputs(objective.needs)
    first = take(inputs, torch.arange(5), torch.tensor([0, 1, 2]))
    second = take(inputs, torch.arange(5, 10), torch.tensor([3]))
    split = torch.cat([objective(first).loss, objective(second).loss])
    torch.testing.assert_close(split, objective(inputs).loss, rtol=1e-12, atol=1e-12)
    assert means([objective(first), objective(second)]) == pytest.approx(means([objective(inputs)]), rel=1e-12)


@EVERY
def test_a_batch_without_pairs_works(random_inputs, make):
    objective = make()
    inputs = random_inputs(objective.needs)
    pairless = take(inputs, torch.arange(10), torch.arange(0))
    outputs = objective(pairless)
    assert outputs.loss.shape == outputs.weight.shape
    grad_R = gradient(objective, pairless)
    if is_per_pair(objective, pairless):
        assert outputs.loss.shape == (0,)
        assert grad_R.abs().sum() == 0
    else:
        assert torch.equal(grad_R, gradient(objective, inputs))
    assert all(values.isfinite().all() for values, _ in outputs.metrics.values())


@EVERY
def test_a_batch_without_rows_works(random_inputs, make):
    objective = make()
    empty = take(random_inputs(objective.needs), torch.arange(0), torch.arange(0))
    outputs = objective(empty)
    assert outputs.loss.shape == outputs.weight.shape == (0,)


@EVERY
def test_inputs_are_not_written_to(random_inputs, make):
    objective = make()
    inputs, before = random_inputs(objective.needs), random_inputs(objective.needs)
    gradient(objective, inputs)
    for field in fields(ObjectiveInputs):
        now, then = getattr(inputs, field.name), getattr(before, field.name)
        pairs = zip(now.values(), then.values(), strict=True) if isinstance(now, dict) else [(now, then)]
        assert all(torch.equal(a, b) for a, b in pairs)
