import math
import warnings
from dataclasses import replace

import pytest
import torch

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import SPPO


def test_closed_form_in_float64(random_inputs):
    for seed in range(100):  # 100 batches of 10 rows
        eta = 10.0 ** (seed % 7 - 3)
        inputs = random_inputs(["previous"], seed=seed)
        outputs = SPPO(eta=eta)(inputs)
        policy, previous = inputs.policy_logps_R.tolist(), inputs.frozen_logps["previous"].tolist()
        expected = [
            (p - q - eta * (win_rate - 0.5)) ** 2
            for p, q, win_rate in zip(policy, previous, inputs.win_rate_R.tolist(), strict=True)
        ]
        assert outputs.loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_first_loss_is_the_variance_of_the_win_rates_times_eta_squared(random_inputs):
    inputs = random_inputs(["previous"])
    inputs = replace(inputs, policy_logps_R=inputs.frozen_logps["previous"])
    outputs = SPPO(eta=1000.0)(inputs)
    values_R, weight_R = outputs.metrics["loss_over_eta2"]
    torch.testing.assert_close(values_R, (inputs.win_rate_R - 0.5).square())
    torch.testing.assert_close(weight_R, inputs.weight_R)
    assert outputs.metrics["log_ratio_over_target"][0].item() == 0


def test_log_ratio_over_target_is_one_when_every_target_is_reached(random_inputs):
    inputs = random_inputs(["previous"])
    target_R = 10.0 * (inputs.win_rate_R - 0.5)
    inputs = replace(inputs, policy_logps_R=inputs.frozen_logps["previous"] + target_R)
    values, weights = SPPO(eta=10.0)(inputs).metrics["log_ratio_over_target"]
    assert values.item() == pytest.approx(1)
    assert weights.item() == pytest.approx((inputs.weight_R * target_R.abs()).sum().item())


def test_estimated_log_z_is_subtracted(random_inputs):
    inputs = random_inputs(["previous"])
    rho_R = inputs.policy_logps_R - inputs.frozen_logps["previous"]
    expected_R = (rho_R - (2.0 * inputs.win_rate_R - inputs.log_z_R)) ** 2
    torch.testing.assert_close(SPPO(eta=2.0, log_z="estimate")(inputs).loss, expected_R, rtol=1e-12, atol=0)


def test_log_z_of_one_prompt():
    win_rate_K = torch.tensor([0.9, 0.4, math.nan, 0.2])
    expected = math.log((math.exp(1.8) + math.exp(0.8) + math.exp(0.4)) / 3)
    assert SPPO(eta=2.0, log_z="estimate").log_z(win_rate_K) == pytest.approx(expected, rel=1e-6)
    assert SPPO(eta=2.0).log_z(win_rate_K) is None


def test_log_z_tends_to_half_eta_for_small_steps():
    win_rate_K = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64)  # a self-play matrix averages 1/2
    errors = []
    for eta in (0.1, 0.01):
        log_z = SPPO(eta=eta, log_z="estimate").log_z(win_rate_K)
        assert log_z is not None
        errors.append(log_z - eta / 2)
    variance = win_rate_K.var(correction=0).item()
    assert errors == pytest.approx([0.1**2 * variance / 2, 0.01**2 * variance / 2], rel=1e-2)


def test_log_z_does_not_overflow():
    with pytest.warns(UserWarning, match=r"model\.objective\.log_z.*biased low"):
        objective = SPPO(eta=1e4, log_z="estimate")
    assert objective.log_z(torch.tensor([0.9, 0.1])) == pytest.approx(9000 - math.log(2), rel=1e-6)


def test_log_z_of_a_prompt_without_verdicts_is_nan():
    assert math.isnan(SPPO(eta=1.0, log_z="estimate").log_z(torch.tensor([math.nan, math.nan])))


def test_small_steps_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SPPO(eta=2.0, log_z="estimate")
        SPPO(eta=1000.0)


def test_estimate_without_log_z_is_refused(golden):
    with pytest.raises(ConfigError, match=r"model\.objective\.log_z.*log_z_R"):
        SPPO(eta=1.0, log_z="estimate")(golden())
