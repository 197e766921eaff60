import math
from dataclasses import replace

import pytest
import torch

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import GRPO, RLOO

from .catalogue import gradient


def at_pi_t(inputs):
    """The batch in the first step of a round, where the policy still is pi_t."""
    previous_R = inputs.frozen_logps["previous"]
    return replace(inputs, policy_logps_R=previous_R.clone().requires_grad_())


def one_prompt(rewards, log_ratios):
    """A prompt of four responses of ten tokens; rewards arrive as differences to the other three's mean."""
    reward_R = torch.tensor(rewards, dtype=torch.float64)
    previous_R = torch.full((4,), -20.0, dtype=torch.float64)
    return {
        "prompt_R": torch.zeros(4, dtype=torch.int64),
        "score_R": (reward_R - reward_R.mean()) * 4 / 3,
        "num_tokens_R": torch.full((4,), 10),
        "weight_R": torch.ones(4, dtype=torch.float64),
        "frozen_logps": {"previous": previous_R, "anchor": previous_R},
        "policy_logps_R": (previous_R + torch.tensor(log_ratios, dtype=torch.float64)).requires_grad_(),
    }


def test_a_value_by_hand(golden):
    # Rewards 1, 0, 0, 0: mean 1/4, standard deviation 1/2, so advantages 1.5, -0.5, -0.5, -0.5. Mean log-ratios a token
    # of 0.1, 0.1, 0.3 and -0.3: the ratios 1.105, 1.105, 1.350 and 0.741, of which a clip at 0.2 makes 1.2 and 0.8.
    inputs = golden(**one_prompt([1, 0, 0, 0], [1.0, 1.0, 3.0, -3.0]))
    outputs = GRPO(tau=0.0, clip=0.2)(inputs)
    expected = [-1.5 * math.exp(0.1), 0.5 * math.exp(0.1), 0.5 * math.exp(0.3), 0.5 * 0.8]
    torch.testing.assert_close(outputs.loss, torch.tensor(expected, dtype=torch.float64), rtol=3e-4, atol=0)
    assert outputs.metrics["clipped_share"][0].tolist() == [0, 0, 0, 1]
    assert gradient(GRPO(tau=0.0, clip=0.2), inputs)[3] == 0


def test_a_winner_that_has_gone_far_enough_is_let_go(golden):
    inputs = golden(**one_prompt([1, 0, 0, 0], [3.0, 0.0, 0.0, 0.0]))
    outputs = GRPO(tau=0.0, clip=0.2)(inputs)
    assert outputs.loss[0].item() == pytest.approx(-1.5 * 1.2, rel=3e-4)
    assert gradient(GRPO(tau=0.0, clip=0.2), inputs)[0] == 0


def test_the_whole_response_s_ratio(golden):
    inputs = golden(**one_prompt([1, 0, 0, 0], [0.1, 0.0, 0.0, 0.0]))
    loss_R = GRPO(tau=0.0, per_token=False)(inputs).loss
    assert loss_R[0].item() == pytest.approx(-1.5 * math.exp(0.1), rel=3e-4)


def test_the_first_step_is_the_advantage_over_the_length(random_inputs):
    inputs = at_pi_t(random_inputs(["previous", "anchor"]))
    grad_R = gradient(GRPO(tau=0.3), inputs) * inputs.num_tokens_R / -inputs.weight_R
    rho_R = (inputs.policy_logps_R - inputs.frozen_logps["anchor"]).detach()
    for rows in ([0, 1, 2], [3, 4], [5, 6, 7, 8]):
        score, rho = inputs.score_R[rows], rho_R[rows]
        expected = (score - score.mean()) / (score.std() + 1e-4) - 0.3 * (rho - rho.mean())
        torch.testing.assert_close(grad_R[rows], expected)
    assert grad_R[9] == 0, "a row alone has nothing to be compared with"


def test_the_first_step_of_dr_grpo_is_rloo_s(random_inputs):
    inputs = at_pi_t(random_inputs(["previous"]))
    score_R = inputs.score_R.clone()
    for rows in ([0, 1, 2], [3, 4], [5, 6, 7, 8], [9]):
        score_R[rows] -= score_R[rows].mean()  # as scores are where all of a prompt's responses are trained on
    inputs = replace(inputs, score_R=score_R)
    dr_grpo = GRPO(tau=0.0, scale_by_std=False, per_token=False)
    torch.testing.assert_close(gradient(dr_grpo, inputs), gradient(RLOO(tau=0.0), inputs))


def test_the_scale_of_the_rewards_does_not_matter(random_inputs):
    inputs = random_inputs(["previous"])
    loss_R = GRPO(tau=0.0)(inputs).loss
    torch.testing.assert_close(
        GRPO(tau=0.0)(replace(inputs, score_R=9 * inputs.score_R)).loss, loss_R, rtol=2e-3, atol=0
    )


def test_equal_rewards_teach_nothing(golden):
    inputs = golden(**one_prompt([1, 1, 1, 1], [1.0, -1.0, 0.0, 0.0]))
    assert gradient(GRPO(tau=0.0), inputs).abs().sum() == 0


def test_a_response_that_has_become_likely_beyond_measure_stays_finite(golden):
    inputs = golden(**one_prompt([0, 1, 1, 1], [1e4, 0.0, 0.0, 0.0]))
    assert GRPO(tau=0.0, per_token=False)(inputs).loss.isfinite().all()
    assert gradient(GRPO(tau=0.0, per_token=False), inputs).isfinite().all()


def test_missing_scores_are_refused(golden):
    with pytest.raises(ConfigError, match=r"GRPO needs .*score_R.*SPO"):
        GRPO()(golden())
