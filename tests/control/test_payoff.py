"""Checkpoint against checkpoint, on verdicts whose answer is known."""

import numpy as np
import pytest

from sppo_lightning.control.payoff import judge_policies, standing
from sppo_lightning.control.preferences import MaximumReward
from sppo_lightning.functional import game_zoo


def test_the_equilibrium_and_the_gap_are_those_of_the_game():
    rates_BMM = np.broadcast_to(game_zoo.rps(0.9, 0.7, 0.8), (8, 3, 3))
    found = standing(["start", "round_000", "round_001"], rates_BMM)
    assert found.match.names == ("start", "round_000", "round_001")
    np.testing.assert_allclose(found.match.equilibrium.policy_N, [2 / 9, 3 / 9, 4 / 9], atol=1e-9)
    assert found.match.cyclic_share > 0
    # The newest, 2, loses to 1 with .7; against the mixture 2 wins (.8 + .3 + .5) / 3.
    assert found.gap.interval.estimate == pytest.approx(2 * (0.7 - 0.5))
    assert found.mixture_gap.interval.estimate == pytest.approx(2 * (1.6 / 3 - 0.5))


def test_policies_meet_in_the_same_start_states(pole_episodes):
    better = sorted(pole_episodes, key=lambda each: each.true_return)
    rates_BMM = judge_policies({"worse": better[:3], "better": better[3:]}, MaximumReward())
    assert rates_BMM.shape == (3, 2, 2)
    np.testing.assert_allclose(rates_BMM + rates_BMM.transpose(0, 2, 1), 1)
    expected = [float(a.true_return > b.true_return) for a, b in zip(better[3:], better[:3], strict=True)]
    assert [rate for rate, value in zip(rates_BMM[:, 1, 0], expected, strict=True) if value] == [1.0] * int(
        sum(expected)
    )
