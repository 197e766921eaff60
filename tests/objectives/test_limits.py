"""Settings in which two methods are the same."""

from dataclasses import replace

import pytest
import torch

from sppo_lightning.objectives import (
    DNO,
    DPO,
    EGPO,
    GPO,
    HTMNPO,
    INPO,
    IPO,
    KTO,
    MPO,
    ONPO,
    SPIN,
    SPO,
    SPPO,
    TDMNPO,
    KTOPair,
    NashMD,
    OnlineIPO,
    SimPO,
    SPPOHard,
    SPPOSingle,
)

from .catalogue import gradient

NAMES = ["anchor", "previous", "history/1", "auxiliary", "player/1", "player/2"]


@pytest.fixture
def inputs(random_inputs):
    """A batch with one policy as "previous", history, auxiliary and both players, and another as the anchor."""
    inputs = random_inputs(NAMES, seed=2)
    previous_R = inputs.frozen_logps["previous"]
    return replace(inputs, frozen_logps={**dict.fromkeys(NAMES, previous_R), "anchor": inputs.frozen_logps["anchor"]})


SAME = [
    pytest.param(SPIN(beta=0.3), DPO(beta=0.3, reference="previous"), id="SPIN = DPO against pi_t"),
    pytest.param(
        TDMNPO(eta=10.0, anchor_weight=0.3, history_weights=[1.0]), INPO(eta=10.0, tau=0.03), id="TD-MNPO, H = 1 = INPO"
    ),
    pytest.param(
        TDMNPO(eta=10.0, anchor_weight=0.3, history_weights=[1.0, 3.0]),
        INPO(eta=10.0, tau=0.03),
        id="TD-MNPO of a constant history = INPO",
    ),
    pytest.param(
        HTMNPO(eta=10.0, anchor_weight=0.3, player_weights=[1.0, 2.0]),
        INPO(eta=10.0, tau=0.03),
        id="HT-MNPO of equal players = INPO",
    ),
    pytest.param(INPO(eta=10.0, tau=0.0), ONPO(eta=10.0), id="INPO without KL = ONPO's fit"),
    pytest.param(INPO(eta=1 / 0.3, tau=0.3), IPO(tau=0.3), id="INPO at eta tau = 1 = IPO"),
    pytest.param(MPO(eta=10.0, tau=0.0), INPO(eta=10.0, tau=0.0), id="MPO without magnet = INPO without KL"),
    pytest.param(EGPO(tau=0.2), OnlineIPO(tau=0.2), id="a half-step of EGPO = online IPO"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_same_loss(inputs, one, other):
    torch.testing.assert_close(one(inputs).loss, other(inputs).loss, rtol=1e-12, atol=1e-12)


def test_gpo_on_centred_win_rates_is_sppo(inputs):
    inputs = replace(inputs, score_R=inputs.win_rate_R - 0.5)
    torch.testing.assert_close(GPO(eta=7.0)(inputs).loss, SPPO(eta=7.0)(inputs).loss)


def test_single_is_sppo_with_the_pairs_verdict_as_win_rate(golden):
    prob_M = golden().pair_prob_M
    loss_R = SPPO(eta=7.0)(golden(win_rate_R=torch.cat([prob_M, 1 - prob_M]))).loss
    torch.testing.assert_close(SPPOSingle(eta=7.0)(golden()).loss, (loss_R[:3] + loss_R[3:]) / 2)


def test_hard_is_twice_single_on_certain_pairs(inputs):
    inputs = replace(inputs, pair_prob_M=torch.ones_like(inputs.pair_prob_M))
    torch.testing.assert_close(SPPOHard(eta=7.0)(inputs).loss, 2 * SPPOSingle(eta=7.0)(inputs).loss)


def test_online_ipo_on_certain_pairs_is_ipo(inputs):
    inputs = replace(inputs, pair_prob_M=torch.ones_like(inputs.pair_prob_M))
    torch.testing.assert_close(OnlineIPO(tau=0.2, target="pair_prob")(inputs).loss, IPO(tau=0.2)(inputs).loss)


def test_dno_is_dpo_smoothed_by_the_win_rates(golden):
    inputs = golden(win_rate_R=torch.tensor([0.9, 0.9, 0.9, 0.2, 0.2, 0.2]))
    smoothed = DPO(beta=0.5, label_smoothing=torch.sigmoid(torch.tensor(-0.7)).item())
    torch.testing.assert_close(DNO(eta=2.0)(inputs).loss, smoothed(inputs).loss)


def test_simpo_without_margin_on_single_tokens_is_dpo_against_a_uniform_policy(inputs):
    uniform_R = torch.full_like(inputs.win_rate_R, -6.0)
    inputs = replace(inputs, num_tokens_R=torch.ones(10, dtype=torch.int64), frozen_logps={"previous": uniform_R})
    torch.testing.assert_close(SimPO(beta=2.0, gamma=0.0)(inputs).loss, DPO(beta=2.0)(inputs).loss)


def test_nash_md_at_the_anchor_is_spo(inputs):
    inputs = replace(inputs, policy_logps_R=inputs.frozen_logps["anchor"].clone().requires_grad_())
    torch.testing.assert_close(gradient(NashMD(tau=0.3), inputs), gradient(SPO(), inputs))


def test_leave_one_out_is_the_half_baseline_scaled_in_self_play(golden):
    # Two rows a prompt that were compared with each other only: P and 1 - P, so K/(K-1) = 2.
    win_rate_R = torch.tensor([0.9, 0.7, 0.4, 0.1, 0.3, 0.6])
    inputs = golden(win_rate_R=win_rate_R)
    torch.testing.assert_close(SPO(baseline="leave_one_out")(inputs).loss, 2 * SPO()(inputs).loss)


def test_kto_of_a_pair_is_kto_pair_where_no_kl_is_positive(golden):
    # All log-ratios negative: every KL estimate is cut at 0.
    inputs = golden(policy_logps_R=golden().frozen_logps["anchor"] - torch.arange(1.0, 7.0))
    inputs = replace(inputs, kl_logps_R=torch.tensor([-1.0, -2.0]))
    loss_R = KTO(beta=0.2)(inputs).loss
    torch.testing.assert_close(KTOPair(beta=0.2)(inputs).loss, (loss_R[:3] + loss_R[3:]) / 2)
