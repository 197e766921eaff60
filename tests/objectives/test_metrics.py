"""What is logged beside the loss, by hand on the golden batch against pi_t.

Log-ratios: chosen 0.3, -0.1, 0.2, rejected -0.3, 0.2, -0.4; margins 0.6, -0.3, 0.6.
"""

import pytest
import torch

from sppo_lightning.objectives import DPO, GPO, SPPO, TDMNPO, SimPO, SPPOHard, SPPOSingle

WEIGHT_M = torch.tensor([1.0, 2.0, 1.0])


def mean(metric):
    values, weights = metric
    return ((values * weights).sum() / weights.sum()).item()


@pytest.mark.parametrize("objective", [DPO(), SPPOSingle(), SPPOHard(), TDMNPO(anchor_weight=0, history_weights=[1])])
def test_margin_and_accuracy_of_pairs(golden, objective):
    metrics = objective(golden(weight_M=WEIGHT_M)).metrics
    assert mean(metrics["margin"]) == pytest.approx((0.6 - 2 * 0.3 + 0.6) / 4, abs=1e-5)
    assert mean(metrics["accuracy"]) == pytest.approx((1 + 0 + 1) / 4)


def test_margin_of_simpo_is_per_token(golden):
    values_M, _ = SimPO()(golden()).metrics["margin"]
    assert values_M[0].item() == pytest.approx(-35.2 / 20 + 41.0 / 25, rel=1e-4)


def test_margin_over_target_of_a_constant_target(golden):
    metrics = TDMNPO(eta=4.0, anchor_weight=0, history_weights=[1])(golden(weight_M=WEIGHT_M)).metrics
    assert mean(metrics["margin_over_target"]) == pytest.approx((0.6 + 2 * 0.3 + 0.6) / (4 * 2), rel=1e-4)


def test_margin_over_target_of_both_rows(golden):
    hard = SPPOHard(eta=4.0)(golden(weight_M=WEIGHT_M)).metrics
    assert mean(hard["margin_over_target"]) == pytest.approx((0.6 + 2 * 0.3 + 0.6) / (4 * 4), rel=1e-4)
    single = SPPOSingle(eta=4.0)(golden(weight_M=WEIGHT_M)).metrics
    targets = [2 * 4 * (prob - 0.5) for prob in (0.93, 0.70, 0.88)]
    total = targets[0] + 2 * targets[1] + targets[2]
    assert mean(single["margin_over_target"]) == pytest.approx((0.6 + 2 * 0.3 + 0.6) / total, rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "eta"),
    [(SPPO(eta=4.0), 4), (SPPOSingle(eta=4.0), 4), (SPPOHard(eta=4.0), 4), (TDMNPO(eta=4.0), 4), (GPO(eta=4.0), 4)],
)
def test_loss_over_eta2(golden, objective, eta):
    outputs = objective(golden(score_R=torch.arange(6.0), weight_M=WEIGHT_M))
    values, weights = outputs.metrics["loss_over_eta2"]
    torch.testing.assert_close(values, outputs.loss / eta**2)
    assert weights is outputs.weight
