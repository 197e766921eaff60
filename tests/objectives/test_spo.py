from dataclasses import replace

import pytest
import torch

from sppo_lightning.objectives import SPO

from .catalogue import gradient


def test_leave_one_out_by_hand(random_inputs):
    inputs = random_inputs([])
    weight_R = torch.ones(10, dtype=torch.float64)
    weight_R[6] = 0  # prompt 2 has rows 5, 6, 7, 8
    inputs = replace(inputs, weight_R=weight_R)
    grad_R = gradient(SPO(baseline="leave_one_out"), inputs)
    p = inputs.win_rate_R
    assert grad_R[0].item() == pytest.approx(-(p[0] - (p[1] + p[2]) / 2).item())
    assert grad_R[3].item() == pytest.approx(-(p[3] - p[4]).item())
    assert grad_R[5].item() == pytest.approx(-(p[5] - (p[7] + p[8]) / 2).item())
    assert grad_R[6].item() == 0
    assert grad_R[9].item() == pytest.approx(-(p[9] - 0.5).item())  # alone in its prompt


def test_advantage_metric(random_inputs):
    inputs = random_inputs([])
    values_R, weight_R = SPO()(inputs).metrics["advantage_abs"]
    torch.testing.assert_close(values_R, (inputs.win_rate_R - 0.5).abs())
    assert weight_R is inputs.weight_R
