import math

import pytest
import torch

from sppo_lightning.objectives import KTOPair


@pytest.fixture
def inputs(golden):
    """Log-ratios to the anchor: chosen 2, -1, 5, rejected 1, 4, -3; weights 1, 2, 1."""
    rho_R = torch.tensor([2.0, -1.0, 5.0, 1.0, 4.0, -3.0])
    return golden(policy_logps_R=golden().frozen_logps["anchor"] + rho_R, weight_M=torch.tensor([1.0, 2.0, 1.0]))


def test_each_half_is_measured_against_the_weighted_mean_of_the_other(inputs):
    kl_chosen, kl_rejected = (2 - 2 + 5) / 4, (1 + 8 - 3) / 4
    expected = [
        (1 / (1 + math.exp(0.5 * (chosen - kl_rejected))) + 1 / (1 + math.exp(0.5 * (kl_chosen - rejected)))) / 2
        for chosen, rejected in ((2, 1), (-1, 4), (5, -3))
    ]
    assert KTOPair(beta=0.5)(inputs).loss.tolist() == pytest.approx(expected, rel=1e-4)


def test_metrics(inputs):
    metrics = KTOPair()(inputs).metrics
    assert metrics["margin"][0].tolist() == pytest.approx([1, -5, 8], abs=1e-4)
    assert metrics["accuracy"][0].tolist() == [1, 0, 1]
