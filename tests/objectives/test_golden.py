"""Losses that the methods' published code gives on one batch (float32)."""

import pytest
import torch

from sppo_lightning.objectives import (
    DPO,
    EGPO,
    INPO,
    IPO,
    ONPO,
    SPPO,
    TDMNPO,
    KTOPair,
    NashMD,
    SimPO,
    SPPOHard,
    SPPOSingle,
)

PER_PAIR = [
    pytest.param(SPPOSingle(eta=1000.0), [184642.094, 40060.016, 144172.094], id="uclaml sppo_single"),
    pytest.param(SPPOHard(eta=10.0), [44.18002, 53.04995, 44.2], id="TRL sppo_hard"),
    pytest.param(DPO(beta=0.1, reference="anchor"), [0.60719, 0.78719, 0.61176], id="DPO"),
    pytest.param(IPO(tau=0.1), [10.24, 46.23994, 10.88999], id="uclaml ipo"),
    pytest.param(SimPO(beta=10.0, gamma=5.0), [6.20203, 4.20944, 1.48546], id="SimPO"),
    pytest.param(INPO(eta=1 / 0.0075, tau=0.0025), [4312.111, 4551.75, 4316.490], id="MNPO of one opponent, INPO"),
    pytest.param(
        TDMNPO(eta=1 / 0.0075, anchor_weight=1 / 3, history_weights=[1.0]),
        [4312.111, 4551.75, 4316.490],
        id="MNPO of one opponent",
    ),
    pytest.param(
        TDMNPO(eta=1 / 0.0075, anchor_weight=0.3333, history_weights=[1.0, 1.0]),
        [4277.163, 4596.834, 4277.162],
        id="MNPO of two equal opponents",
    ),
    pytest.param(
        TDMNPO(eta=1 / 0.005, anchor_weight=0.85, history_weights=[0.25, 0.75]),
        [9660.924, 10340.346, 9675.427],
        id="MNPO of two weighted opponents",
    ),
    pytest.param(EGPO(tau=0.1), [19.36, 15.21, 5.76], id="EGPO, summed"),
    pytest.param(EGPO(tau=0.1, per_token=True), [37.4544, 4.6021, 15.87476], id="EGPO, per token"),
]


@pytest.mark.parametrize(("objective", "loss_M"), PER_PAIR)
def test_pairs(golden, objective, loss_M):
    torch.testing.assert_close(objective(golden()).loss, torch.tensor(loss_M), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("eta", "pair_means"), [(1000.0, [96814.086, 11081.025, 42130.109]), (10.0, [7.93, 1.44, 3.125])]
)
def test_sppo_averages_the_rows_of_a_pair(golden, eta, pair_means):
    loss_R = SPPO(eta=eta)(golden()).loss
    torch.testing.assert_close((loss_R[:3] + loss_R[3:]) / 2, torch.tensor(pair_means), rtol=1e-4, atol=0)


def test_kto_pair_averages_the_halves(golden):
    chosen, rejected = [0.48001, 0.52747, 0.4925], [0.47502, 0.51749, 0.46506]
    expected_M = (torch.tensor(chosen) + torch.tensor(rejected)) / 2
    torch.testing.assert_close(KTOPair(beta=0.1)(golden()).loss, expected_M, rtol=1e-4, atol=0)


def test_onpo_with_the_previous_policy_as_auxiliary(golden):
    inputs = golden()
    inputs = golden(frozen_logps={"auxiliary": inputs.frozen_logps["previous"]})
    torch.testing.assert_close(ONPO(eta=1.0)(inputs).loss, torch.tensor([0.01, 0.64, 0.01]), rtol=1e-4, atol=0)


def test_nash_md_policy_gradient_on_the_chosen_rows(golden):
    loss_R = NashMD(tau=0.1)(golden()).loss
    assert loss_R[:3].mean().item() == pytest.approx(9.729, rel=1e-4)
