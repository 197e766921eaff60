from dataclasses import replace

import pytest
import torch

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import RLOO, SPO
from sppo_lightning.selfplay.win_rates import mean_scores
from sppo_lightning.types import PreferenceMatrix

from .catalogue import gradient


def test_a_value_by_hand(golden):
    # Prompt 0 has rows 0 and 3, with log-ratios to the anchor of 0.8 and -1.0.
    inputs = golden(score_R=torch.tensor([1.0, 0.0, 0.0, -1.0, 0.0, 0.0]))
    loss_R = RLOO(tau=0.5)(inputs).loss
    assert loss_R[0].item() == pytest.approx(35.2 * (1.0 - 0.5 * 1.8), abs=1e-4)
    assert loss_R[3].item() == pytest.approx(41.0 * (-1.0 + 0.5 * 1.8), abs=1e-4)


def test_the_advantage_is_held_constant(random_inputs):
    inputs = random_inputs(["anchor"])
    rho = (inputs.policy_logps_R - inputs.frozen_logps["anchor"]).detach()
    grad_R = gradient(RLOO(tau=0.3), inputs) / -inputs.weight_R
    score = inputs.score_R
    assert grad_R[0].item() == pytest.approx((score[0] - 0.3 * (rho[0] - (rho[1] + rho[2]) / 2)).item())
    assert grad_R[3].item() == pytest.approx((score[3] - 0.3 * (rho[3] - rho[4])).item())
    assert grad_R[9].item() == pytest.approx((score[9] - 0.3 * rho[9]).item())  # alone in its prompt


def test_on_rewards_that_are_win_rates_it_is_spo_with_the_leave_one_out_baseline(random_inputs):
    # The scores travel as the round makes them: differences to the other responses, here of one prompt of four.
    inputs = replace(random_inputs([]), prompt_R=torch.tensor([0] * 4 + [1] * 6))
    win_rate_R = inputs.win_rate_R
    score_R = torch.cat(
        [
            mean_scores(
                PreferenceMatrix(probs_BKJ=torch.full((1, len(rates), len(rates)), 0.5), scores_BK=rates[None])
            )[0]
            for rates in (win_rate_R[:4], win_rate_R[4:])
        ]
    )
    spo = SPO(baseline="leave_one_out")(inputs).loss
    torch.testing.assert_close(RLOO(tau=0.0)(replace(inputs, score_R=score_R)).loss, spo)


def test_without_kl_it_needs_no_policy():
    assert RLOO(tau=0.0).needs == ()
    assert RLOO(tau=0.1).needs == ("anchor",)


def test_missing_scores_are_refused(golden):
    with pytest.raises(ConfigError, match=r"RLOO needs .*score_R.*SPO"):
        RLOO()(golden())
