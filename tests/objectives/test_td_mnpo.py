import warnings
from dataclasses import replace

import pytest
import torch

from sppo_lightning.objectives import INPO, TDMNPO

from .catalogue import gradient


def test_needs_follow_the_weights():
    assert TDMNPO(history_weights=[2.0, 1.0, 1.0]).needs == ("anchor", "previous", "history/1", "history/2")


def test_a_short_history_shares_the_weight_and_says_so_once(random_inputs):
    objective = TDMNPO(eta=10.0, anchor_weight=0.3, history_weights=[1.0, 1.0, 2.0])
    full = random_inputs(objective.needs)
    second_round = {name: full.frozen_logps[name] for name in ("anchor", "previous", "history/1")}
    first_round = {name: full.frozen_logps[name] for name in ("anchor", "previous")}
    with pytest.warns(UserWarning, match=r"model\.objective\.history_weights.*history/1, history/2"):
        loss_M = objective(replace(full, frozen_logps=first_round)).loss
    torch.testing.assert_close(loss_M, INPO(eta=10.0, tau=0.03)(full).loss)
    two = TDMNPO(eta=10.0, anchor_weight=0.3, history_weights=[1.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_M = objective(replace(full, frozen_logps=second_round)).loss
        torch.testing.assert_close(loss_M, two(replace(full, frozen_logps=second_round)).loss)
        objective(full)


def test_per_token_by_hand(golden):
    objective = TDMNPO(eta=1.0, anchor_weight=0.5, history_weights=[1.0], per_token=True)
    # Pair 0: rho_w = (0.8 + 0.3)/2 over 20 tokens, rho_l = (-1.0 - 0.3)/2 over 25.
    assert objective(golden()).loss[0].item() == pytest.approx((0.55 / 20 + 0.65 / 25 - 0.5) ** 2, rel=1e-4)


def test_per_token_hides_the_opponents_at_the_official_step(random_inputs):
    needs = ("anchor", "previous", "history/1")
    inputs = random_inputs(needs)
    one = {"anchor_weight": 1 / 3, "history_weights": [1.0]}
    other = {"anchor_weight": 0.85, "history_weights": [0.25, 0.75]}

    def cosine(eta):
        return torch.cosine_similarity(
            gradient(TDMNPO(eta=eta, per_token=True, **one), inputs),
            gradient(TDMNPO(eta=eta, per_token=True, **other), inputs),
            dim=0,
        ).item()

    assert cosine(1 / 0.0075) > 0.9999 > cosine(1.0)
