"""Gradients: finite differences for every objective, zero at the target, and the first step's direction."""

from dataclasses import replace

import pytest
import torch

from sppo_lightning.objectives import (
    DNO,
    DPO,
    EGPO,
    GPO,
    GRPO,
    HTMNPO,
    INPO,
    IPO,
    KTO,
    MPO,
    ONPO,
    RLOO,
    SPO,
    SPPO,
    TDMNPO,
    KTOPair,
    NashMD,
    OnlineIPO,
    SPPOHard,
    SPPOSingle,
)

from .catalogue import all_objectives, gradient

# Part of these losses is held constant by design: their gradients are checked by hand, here or in their own tests.
STOP_GRADIENT = {GRPO, KTOPair, NashMD, RLOO}


@pytest.mark.parametrize("cls", [cls for cls in all_objectives() if cls not in STOP_GRADIENT])
def test_finite_differences(random_inputs, cls):
    objective = cls()
    inputs = random_inputs(objective.needs, seed=1)

    def total(logps_R):
        outputs = objective(replace(inputs, policy_logps_R=logps_R))
        return (outputs.weight * outputs.loss).sum()

    step = 1e-5
    logps_R = inputs.policy_logps_R.detach()
    differences = [
        (total(logps_R + step * unit_R) - total(logps_R - step * unit_R)) / (2 * step) for unit_R in torch.eye(10)
    ]
    torch.testing.assert_close(gradient(objective, inputs), torch.stack(differences), rtol=1e-5, atol=1e-6)


def test_nash_md_holds_the_advantage_constant(random_inputs):
    inputs = random_inputs(["anchor"])
    rho_R = inputs.policy_logps_R - inputs.frozen_logps["anchor"]
    expected_R = -inputs.weight_R * (inputs.win_rate_R - 0.5 - 0.3 * rho_R)
    torch.testing.assert_close(gradient(NashMD(tau=0.3), inputs), expected_R.detach())


def test_kto_pair_holds_the_kl_constant(golden):
    inputs = golden(policy_logps_R=golden().policy_logps_R.double().requires_grad_())
    rho_R = (inputs.policy_logps_R - inputs.frozen_logps["anchor"]).detach()
    kl_chosen, kl_rejected = rho_R[:3].mean().clamp(min=0), rho_R[3:].mean().clamp(min=0)
    good_M, bad_M = torch.sigmoid(0.1 * (rho_R[:3] - kl_rejected)), torch.sigmoid(0.1 * (kl_chosen - rho_R[3:]))
    expected_R = torch.cat([-0.05 * good_M * (1 - good_M), 0.05 * bad_M * (1 - bad_M)])
    torch.testing.assert_close(gradient(KTOPair(beta=0.1), inputs), expected_R)


ROW_TARGETS = [
    pytest.param(SPPO(eta=3.0), lambda i: 3.0 * (i.win_rate_R - 0.5), id="SPPO"),
    pytest.param(SPPO(eta=2.0, log_z="estimate"), lambda i: 2.0 * i.win_rate_R - i.log_z_R, id="SPPO, estimate"),
    pytest.param(GPO(eta=3.0), lambda i: 3.0 * i.score_R, id="GPO"),
]


@pytest.mark.parametrize(("objective", "target"), ROW_TARGETS)
def test_rows_at_their_target(random_inputs, objective, target):
    inputs = random_inputs(objective.needs)
    logps_R = (inputs.frozen_logps["previous"] + target(inputs)).requires_grad_()
    inputs = replace(inputs, policy_logps_R=logps_R)
    assert objective(inputs).loss.max().item() < 1e-24
    assert gradient(objective, inputs).abs().max().item() < 1e-12


def _win_rate_gap(inputs):
    return inputs.win_rate_R[inputs.pairs_M2[:, 0]] - inputs.win_rate_R[inputs.pairs_M2[:, 1]]


# Objective, the margin it asks for, the frozen policies its log-ratio is taken to.
PAIR_TARGETS = [
    pytest.param(IPO(tau=0.5), lambda i: torch.ones(2), {"anchor": 1.0}, id="IPO"),
    pytest.param(INPO(eta=3.0, tau=0.1), lambda i: torch.full((2,), 1.5), {"anchor": 0.3, "previous": 0.7}, id="INPO"),
    pytest.param(
        MPO(eta=4.0, tau=0.25), lambda i: torch.ones(2), {"anchor": 0.5, "previous": 0.5}, id="MPO: step 4/(1 + 1)"
    ),
    pytest.param(
        TDMNPO(eta=3.0, anchor_weight=0.2, history_weights=[1.0, 0.0, 3.0]),
        lambda i: torch.full((2,), 1.5),
        {"anchor": 0.2, "previous": 0.2, "history/2": 0.6},
        id="TDMNPO",
    ),
    pytest.param(
        HTMNPO(eta=3.0, anchor_weight=0.2, player_weights=[1.0, 3.0]),
        lambda i: torch.full((2,), 1.5),
        {"anchor": 0.2, "player/1": 0.2, "player/2": 0.6},
        id="HTMNPO",
    ),
    pytest.param(ONPO(eta=3.0), lambda i: torch.full((2,), 1.5), {"auxiliary": 1.0}, id="ONPO"),
    pytest.param(OnlineIPO(tau=0.5), lambda i: 2 * _win_rate_gap(i), {"anchor": 1.0}, id="OnlineIPO, win rates"),
    pytest.param(
        OnlineIPO(tau=0.5, target="pair_prob"), lambda i: 2 * (i.pair_prob_M - 0.5), {"anchor": 1.0}, id="OnlineIPO, P"
    ),
    pytest.param(EGPO(tau=0.5), lambda i: 2 * _win_rate_gap(i), {"anchor": 1.0}, id="EGPO"),
    pytest.param(
        EGPO(tau=0.1, eta=2.0), lambda i: 2 * _win_rate_gap(i), {"anchor": 0.2, "previous": 0.8}, id="EGPO, the step"
    ),
    pytest.param(SPPOHard(eta=3.0), lambda i: torch.full((2,), 3.0), {"previous": 1.0}, id="SPPOHard"),
    pytest.param(SPPOSingle(eta=3.0), lambda i: 6 * (i.pair_prob_M - 0.5), {"previous": 1.0}, id="SPPOSingle"),
    pytest.param(DNO(eta=3.0), lambda i: 3 * _win_rate_gap(i), {"previous": 1.0}, id="DNO"),
    pytest.param(
        DPO(beta=0.5, label_smoothing=0.2),
        lambda i: torch.full((2,), torch.tensor(0.8).logit().item() / 0.5),
        {"previous": 1.0},
        id="DPO, smoothed",
    ),
]


@pytest.mark.parametrize(("objective", "margin", "anchors"), PAIR_TARGETS)
def test_pairs_at_their_target(random_inputs, objective, margin, anchors):
    assert set(objective.needs) == set(anchors)
    pairs_M2 = torch.tensor([[0, 1], [4, 3]])
    inputs = random_inputs(objective.needs)
    inputs = replace(inputs, pairs_M2=pairs_M2, pair_prob_M=inputs.pair_prob_M[:2], weight_M=inputs.weight_M[:2])
    logps_R = sum(weight * inputs.frozen_logps[name] for name, weight in anchors.items())
    half_M = margin(inputs).double() / 2
    logps_R = logps_R.index_add(0, pairs_M2[:, 0], half_M).index_add(0, pairs_M2[:, 1], -half_M).requires_grad_()
    inputs = replace(inputs, policy_logps_R=logps_R)
    assert gradient(objective, inputs).abs().max().item() < 1e-7
    if not isinstance(objective, DNO | DPO):  # their loss at the minimum is the entropy of the label
        assert objective(inputs).loss.max().item() < 1e-12


def test_spo_at_the_indifferent_win_rate(random_inputs):
    inputs = random_inputs([])
    inputs = replace(inputs, win_rate_R=torch.full_like(inputs.win_rate_R, 0.5))
    assert gradient(SPO(), inputs).abs().max().item() == 0
    assert SPO()(inputs).loss.abs().max().item() == 0


def test_first_step_of_sppo_is_that_of_spo(random_inputs):
    inputs = random_inputs(["previous"])
    inputs = replace(inputs, policy_logps_R=inputs.frozen_logps["previous"].clone().requires_grad_())
    sppo_R, spo_R = gradient(SPPO(eta=1000.0), inputs), gradient(SPO(), inputs)
    assert torch.cosine_similarity(sppo_R, spo_R, dim=0).item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(sppo_R, 2 * 1000.0 * spo_R)


def test_kto_pushes_good_rows_up_bad_rows_down_and_ties_nowhere(random_inputs):
    inputs = random_inputs(["anchor"])
    win_rate_R = inputs.win_rate_R.clone()
    win_rate_R[4] = 0.5
    inputs = replace(inputs, win_rate_R=win_rate_R)
    grad_R = gradient(KTO(), inputs)
    assert torch.equal(grad_R.sign(), (0.5 - win_rate_R).sign())
