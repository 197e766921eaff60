"""Predicted local rates and stability limits, against what the updates do."""

import numpy as np
import pytest

from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.games import kl_divergence
from sppo_lightning.functional.local_rates import kl_factor, stability_limit
from sppo_lightning.functional.regularised_games import regularised_equilibrium
from sppo_lightning.functional.tabular import normalise, play
from sppo_lightning.functional.tabular_regularised import EGPO, INPO

METHODS = {"inpo": INPO, "egpo": EGPO}


def setting(kind, tau):
    games = game_zoo.rps(0.9, 0.9, 0.9) if kind == "rps" else game_zoo.random(7, seed=0)
    start, reference = normalise(0.5 * np.random.default_rng(0).standard_normal((2, len(games))))
    return games, start, reference, np.exp(regularised_equilibrium(games, tau, np.exp(reference)))


@pytest.mark.parametrize(("eta", "tau"), [(0.5, 0.1), (2.0, 0.1)])
@pytest.mark.parametrize("name", ["inpo", "egpo"])
def test_measured_rate_on_rock_paper_scissors_is_the_predicted_one(name, eta, tau):
    games, start, reference, aim = setting("rps", tau)
    curve = kl_divergence(aim, play(METHODS[name](eta, tau), games, start, reference, 400))
    near = np.flatnonzero((curve < 1e-6) & (curve > 1e-12))
    measured = np.exp(np.polyfit(near, np.log(curve[near]), 1)[0])
    predicted = kl_factor(name, games, aim, eta, tau)
    assert 1 - measured == pytest.approx(1 - predicted, rel=0.02)


@pytest.mark.parametrize("name", ["inpo", "egpo"])
def test_predicted_rate_is_the_spectral_radius_of_the_update(name):
    games, _, reference, aim = setting("random", 0.1)
    method = METHODS[name](2.0, 0.1)
    at = np.log(aim)

    def update(logits):
        return play(method, games, logits, reference, 1)[1]

    step = 1e-5
    jacobian = np.column_stack([(update(at + step * e) - update(at - step * e)) / (2 * step) for e in np.eye(len(at))])
    # Normalising takes the constants out, so the direction of all ones has eigenvalue 0 here.
    radius = np.abs(np.linalg.eigvals(jacobian)).max()
    assert kl_factor(name, games, aim, 2.0, 0.1) == pytest.approx(radius**2, abs=1e-7)


@pytest.mark.parametrize("name", ["inpo", "egpo"])
@pytest.mark.parametrize(("kind", "tau"), [("rps", 0.1), ("rps", 0.2), ("random", 0.1)])
def test_the_equilibrium_attracts_just_below_the_limit_and_repels_just_above(kind, tau, name):
    games, _, reference, aim = setting(kind, tau)
    limit = stability_limit(name, games, aim, tau)
    beside = normalise(np.log(aim) + 1e-4 * np.random.default_rng(1).standard_normal(len(aim)))

    def growth(eta):
        curve = kl_divergence(aim, play(METHODS[name](eta, tau), games, beside, reference, 400))
        return curve[-1] / curve[0]

    assert growth(0.98 * limit) < 0.5
    assert growth(1.02 * limit) > 2


def test_inpo_limit_on_even_rock_paper_scissors():
    # At the uniform equilibrium mu = +-0.4 i / sqrt(3), so the limit is 2 tau / (tau^2 + 0.16 / 3).
    games = game_zoo.rps(0.9, 0.9, 0.9)
    uniform = np.full(3, 1 / 3)
    assert stability_limit("inpo", games, uniform, 0.1) == pytest.approx(0.2 / (0.01 + 0.16 / 3))
    assert stability_limit("inpo", games, uniform, 0.02) == pytest.approx(0.04 / (0.0004 + 0.16 / 3))
