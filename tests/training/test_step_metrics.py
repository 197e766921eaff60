"""Step metrics are weighted means over the packs of a step, and their names are those of the documentation."""

import math

import pytest
import torch

from sppo_lightning.objectives import DPO, SPPO, SimPO
from sppo_lightning.training.step_metrics import StepMetrics
from sppo_lightning.types import ObjectiveInputs

NAMES = {
    "train/loss",
    "train/loss_over_eta2",
    "train/log_ratio_over_target",
    "train/winner_log_ratio",
    "train/loser_log_ratio",
}
PAIR_METRICS = {"train/loss", "train/margin", "train/accuracy"}


def inputs(log_ratios, rates, pairs=(), weights=None, pair_weights=None, needs=("previous",)):
    R, M = len(log_ratios), len(pairs)
    return ObjectiveInputs(
        policy_logps_R=torch.tensor(log_ratios) - 20,
        frozen_logps={name: torch.full((R,), -20.0) for name in needs},
        num_tokens_R=torch.full((R,), 4),
        win_rate_R=torch.tensor(rates),
        prompt_R=torch.zeros(R, dtype=torch.long),
        weight_R=torch.tensor(weights or [1.0] * R),
        pairs_M2=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        pair_prob_M=torch.full((M,), 0.9),
        weight_M=torch.tensor(pair_weights or [1.0] * M),
    )


def logged(objective, *packs):
    metrics = StepMetrics()
    for pack in packs:
        metrics.update(pack, objective(pack))
    return metrics.compute()


def test_values_by_hand_over_packs_of_different_weight():
    first = inputs([1.0, -2.0, 0.5], [0.75, 0.25, 0.5], pairs=[(0, 1), (2, 1)], pair_weights=[1.0, 3.0])
    second = inputs([4.0, 8.0], [1.0, 0.0], pairs=[(0, 1)], weights=[2.0, 0.0], pair_weights=[2.0])
    found = logged(SPPO(eta=4.0), first, second)
    # Targets 1, -1, 0 and 2 (weight 2): squares 0, 1, 0.25, 4.
    assert found.pop("train/loss") == pytest.approx((0 + 1 + 0.25 + 2 * 4) / 5)
    assert found.pop("train/loss_over_eta2") == pytest.approx((0 + 1 + 0.25 + 2 * 4) / 5 / 16)
    assert found.pop("train/log_ratio_over_target") == pytest.approx((1 + 2 + 0.5 + 2 * 4) / (1 + 1 + 0 + 2 * 2))
    assert found.pop("train/winner_log_ratio") == pytest.approx((1 * 1.0 + 3 * 0.5 + 2 * 4.0) / 6)
    assert found.pop("train/loser_log_ratio") == pytest.approx((4 * -2.0 + 2 * 8.0) / 6)
    assert found == {}


def test_a_pack_without_pairs_has_no_winners():
    rows_only = inputs([1.0, -2.0], [0.75, 0.25])
    found = logged(SPPO(eta=4.0), rows_only)
    assert set(found) == {"train/loss", "train/loss_over_eta2", "train/log_ratio_over_target"}
    with_pairs = inputs([1.0, -2.0], [0.75, 0.25], pairs=[(0, 1)])
    assert logged(SPPO(eta=4.0), rows_only, with_pairs)["train/winner_log_ratio"] == pytest.approx(1.0)


def test_an_objective_that_knows_only_the_anchor_has_log_ratios_to_it():
    found = logged(DPO(reference="anchor"), inputs([1.0, -2.0], [0.75, 0.25], pairs=[(0, 1)], needs=("anchor",)))
    assert set(found) == {*PAIR_METRICS, "train/winner_log_ratio", "train/loser_log_ratio"}
    assert found["train/winner_log_ratio"] == pytest.approx(1.0)
    assert found["train/loser_log_ratio"] == pytest.approx(-2.0)


def test_an_objective_without_a_reference_has_none():
    assert set(logged(SimPO(), inputs([1.0, -2.0], [0.75, 0.25], pairs=[(0, 1)], needs=()))) == PAIR_METRICS


def test_what_is_masked_is_not_looked_at():
    masked = inputs(
        [1.0, math.nan, -2.0], [0.75, math.nan, 0.25], [(0, 2), (1, 2)], [1.0, 0.0, 1.0], pair_weights=[1.0, 0.0]
    )
    clean = inputs([1.0, -2.0], [0.75, 0.25], [(0, 1)])
    assert logged(SPPO(eta=4.0), masked) == pytest.approx(logged(SPPO(eta=4.0), clean))


def test_nothing_is_logged_of_a_step_that_is_masked_as_a_whole():
    assert logged(SPPO(eta=4.0), inputs([1.0, 2.0], [0.7, 0.3], [(0, 1)], [0.0, 0.0], [0.0])) == {}


def test_a_run_logs_these_names_at_every_step(finished_run):
    steps = [step.step for step in finished_run.steps]
    for name in NAMES | {"train/grad_norm", "train/learning_rate"}:
        assert sorted(finished_run.metrics(name)) == steps, name
    assert {name for _, metrics in finished_run.logged for name in metrics if name.startswith("train/")} == NAMES | {
        "train/grad_norm",
        "train/learning_rate",
    }


def test_a_run_s_values_are_exact_over_its_packs(finished_run):
    eta = finished_run.module.objective.eta
    assert max(len(packs) for packs in finished_run.batches.values()) > 2
    for step, packs in finished_run.batches.items():
        log_ratios = [p.policy_logps_R.detach().double() - p.frozen_logps["previous"] for p in packs]
        rho, weight = torch.cat(log_ratios), torch.cat([p.weight_R for p in packs])
        target = torch.cat([eta * p.win_rate_R.double() - p.log_z_R for p in packs])
        pair_weight = torch.cat([p.weight_M for p in packs])
        winner, loser = (
            torch.cat([log_ratio[p.pairs_M2[:, end]] for log_ratio, p in zip(log_ratios, packs, strict=True)])
            for end in (0, 1)
        )
        loss = float((weight * (rho - target) ** 2).sum() / weight.sum())
        expected = {
            "train/loss": loss,
            "train/loss_over_eta2": loss / eta**2,
            "train/log_ratio_over_target": float((weight * rho.abs()).sum() / (weight * target.abs()).sum()),
            "train/winner_log_ratio": float((pair_weight * winner).sum() / pair_weight.sum()),
            "train/loser_log_ratio": float((pair_weight * loser).sum() / pair_weight.sum()),
        }
        for name, value in expected.items():
            assert finished_run.metrics(name)[step] == pytest.approx(value, rel=1e-5, abs=1e-6), (step, name)
