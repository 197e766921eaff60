"""The exact updates: by hand, against each other, and where they end; also where theory says that they must not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.bradley_terry import bradley_terry_scores
from sppo_lightning.functional.games import duality_gap, kl_divergence, von_neumann_winner
from sppo_lightning.functional.regularised_games import regularised_equilibrium
from sppo_lightning.functional.tabular import ONPO, SPPO, TabularMethod, hedge_bound, normalise, play
from sppo_lightning.functional.tabular_dpo import IterativeDPO, OfflineDPO
from sppo_lightning.functional.tabular_regularised import EGPO, INPO, MPO, TDMNPO, NashMD, OnlineIPO
from sppo_lightning.functional.tabular_reward import IterativeRewardModel

EVEN, UNEVEN = (0.9, 0.9, 0.9), (0.9, 0.7, 0.8)


def draw(kind, num_seeds=3, n=20):
    """[S, N, N] games with [S, N] start and reference log-policies, softmax of N(0, 1/4) logits."""
    if isinstance(kind, tuple):
        games = np.stack([game_zoo.rps(*kind)] * num_seeds)
    else:
        games = np.stack([getattr(game_zoo, kind)(n, seed) for seed in range(num_seeds)])
    shape = (2, games.shape[-1])
    logits = np.stack([0.5 * np.random.default_rng(seed).standard_normal(shape) for seed in range(num_seeds)])
    return games, normalise(logits[:, 0]), normalise(logits[:, 1])


def aims(games, tau, references):
    return np.exp([regularised_equilibrium(p, tau, np.exp(r)) for p, r in zip(games, references, strict=True)])


def kl_curve(method, kind, num_steps):
    """[T + 1, S] KL of the regularised equilibrium to each round's policy."""
    games, starts, references = draw(kind)
    return kl_divergence(aims(games, method.tau, references), play(method, games, starts, references, num_steps))


# One step, by hand.


def test_sppo_step_by_hand():
    # Win rates are 0.7 and 0.3 against the uniform policy, so eta = 1 multiplies the odds by e^0.4.
    games = np.array([[0.5, 0.9], [0.1, 0.5]])
    step = np.exp(play(SPPO(1.0), games, np.zeros(2), np.zeros(2), 1)[1])
    assert step[0] / step[1] == pytest.approx(np.exp(0.4))


def test_egpo_plays_again_from_the_start_of_its_step():
    games, starts, references = (array[0] for array in draw(UNEVEN))
    half = play(INPO(0.5, 0.1), games, starts, references, 1)[1]
    expected = normalise(0.95 * starts + 0.05 * references + 0.5 * games @ np.exp(half))
    np.testing.assert_allclose(play(EGPO(0.5, 0.1), games, starts, references, 1)[1], expected, atol=1e-14)


def test_onpo_counts_the_last_win_rates_twice_and_takes_one_back_next_round():
    games, starts, references = (array[0] for array in draw(UNEVEN))
    _, first, second = play(ONPO(0.5), games, starts, references, 2)
    rates = games @ np.exp(starts), games @ np.exp(first)
    np.testing.assert_allclose(first, normalise(starts + 0.5 * 2 * rates[0]), atol=1e-14)
    np.testing.assert_allclose(second, normalise(starts + 0.5 * (rates[0] + 2 * rates[1])), atol=1e-14)


def test_td_mnpo_weighs_the_history_it_has():
    games, starts, references = (array[0] for array in draw(UNEVEN))
    method = TDMNPO(0.5, 0.1, history_weights=(1.0, 3.0), mixture_opponent=True)
    _, first, second = play(method, games, starts, references, 2)
    np.testing.assert_allclose(first, play(INPO(0.5, 0.1), games, starts, references, 1)[1], atol=1e-14)
    anchor = 0.95 * (0.25 * first + 0.75 * starts) + 0.05 * references
    opponent = 0.25 * np.exp(first) + 0.75 * np.exp(starts)
    np.testing.assert_allclose(second, normalise(anchor + 0.5 * games @ opponent), atol=1e-14)


# Methods that are each other.


@pytest.mark.parametrize(
    ("method", "twin"),
    [
        (MPO(0.5, 0.1), INPO(0.5 / 1.05, 0.1)),
        (TDMNPO(0.5, 0.1), INPO(0.5, 0.1)),
        (TDMNPO(0.5, 0.1, mixture_opponent=True), INPO(0.5, 0.1)),
        (OnlineIPO(0.1), INPO(10.0, 0.1)),
    ],
    ids=repr,
)
def test_methods_that_meet(method, twin):
    games, starts, references = draw("random", n=6)
    np.testing.assert_allclose(
        play(method, games, starts, references, 20), play(twin, games, starts, references, 20), atol=1e-10
    )


@pytest.mark.parametrize(
    "method",
    [INPO(0.5, 0.1), EGPO(0.5, 0.1), MPO(0.5, 0.1), TDMNPO(0.5, 0.1, (1.0, 1.0)), OnlineIPO(0.1)],
    ids=repr,
)
def test_the_regularised_equilibrium_stays(method):
    games, _, references = draw("random", n=6)
    logps = np.log(aims(games, 0.1, references))
    np.testing.assert_allclose(play(method, games, logps, references, 3)[-1], logps, atol=1e-9)


@pytest.mark.parametrize("method", [SPPO(0.5), ONPO(0.5)], ids=repr)
def test_the_von_neumann_winner_stays(method):
    games = game_zoo.rps(*UNEVEN)
    logps = np.log(von_neumann_winner(games).policy_N)
    np.testing.assert_allclose(play(method, games, logps, logps, 5)[-1], logps, atol=1e-12)


ALL_METHODS = [
    SPPO(0.5),
    ONPO(0.5),
    INPO(0.5, 0.1),
    EGPO(0.5, 0.1),
    NashMD(0.1),
    NashMD(0.1, eta=0.5),
    MPO(0.5, 0.1),
    TDMNPO(0.5, 0.1, (1.0, 0.5)),
    OnlineIPO(0.1),
    IterativeDPO(1.0),
    OfflineDPO(1.0),
    IterativeRewardModel(0.5),
]


@pytest.mark.parametrize("method", ALL_METHODS, ids=repr)
def test_rounds_are_policies_and_batches_are_single_games(method):
    games, starts, references = draw("random", n=5)
    together = play(method, games, starts, references, 6)
    assert together.shape == (7, 3, 5)
    np.testing.assert_allclose(np.exp(together).sum(axis=-1), 1, atol=1e-12)
    np.testing.assert_array_equal(together[0], starts)
    for s in range(3):
        np.testing.assert_allclose(
            play(method, games[s], starts[s], references[s], 6), together[:, s], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("method", ALL_METHODS, ids=repr)
def test_renaming_the_responses_renames_the_policies(method):
    games, starts, references = (array[0] for array in draw("random", n=5))
    order = np.array([3, 1, 4, 0, 2])
    renamed = play(method, games[np.ix_(order, order)], starts[order], references[order], 6)
    np.testing.assert_allclose(renamed, play(method, games, starts, references, 6)[:, order], rtol=1e-8, atol=1e-8)


# The game itself: averages converge, last policies need not.


@pytest.mark.parametrize(("kind", "tolerance"), [(EVEN, 0.2), (UNEVEN, 0.2), ("random", 0.1), ("bradley_terry", 0.1)])
def test_sppo_average_gap_falls_like_one_over_root_t(kind, tolerance):
    games, starts, references = draw(kind, num_seeds=5)
    horizons = 2 ** np.arange(6, 11)
    gaps = []
    for num_rounds in horizons:
        eta = np.sqrt(8 * np.log(games.shape[-1]) / num_rounds)
        average = np.exp(play(SPPO(eta), games, starts, references, num_rounds - 1)).mean(axis=0)
        gaps.append(duality_gap(games, average))
        assert (gaps[-1] <= 2 * hedge_bound(starts, eta, num_rounds)).all()
    slopes = np.polyfit(np.log(horizons), np.log(gaps), 1)[0]
    assert slopes.mean() == pytest.approx(-0.5, abs=tolerance)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), eta=st.floats(0.01, 20.0), num_rounds=st.integers(1, 200))
def test_sppo_never_exceeds_the_hedge_bound(seed, n, eta, num_rounds):
    games = game_zoo.random(n, seed)
    start = normalise(np.random.default_rng(seed).standard_normal(n))
    average = np.exp(play(SPPO(eta), games, start, start, num_rounds - 1)).mean(axis=0)
    assert duality_gap(games, average) <= 2 * hedge_bound(start, eta, num_rounds) + 1e-12


def test_sppo_average_is_nearly_unbeatable_on_random_games():
    games = np.stack([game_zoo.random(10, seed) for seed in range(10)])
    start = normalise(np.zeros((10, 10)))
    eta = np.sqrt(8 * np.log(10) / 1024)
    average = np.exp(play(SPPO(eta), games, start, start, 1023)).mean(axis=0)
    assert duality_gap(games, average).max() < 0.025


def test_sppo_last_policy_circles_outwards_where_there_is_no_winner():
    games, starts, references = draw(UNEVEN)
    played = play(SPPO(0.2), games, starts, references, 1024)
    winner = von_neumann_winner(games[0]).policy_N
    assert (kl_divergence(winner, played[-1]) > kl_divergence(winner, played[0])).all()
    assert (duality_gap(games, np.exp(played[-1])) > 0.05).all()
    assert (duality_gap(games, np.exp(played[:-1]).mean(axis=0)) < 0.01).all()


def test_sppo_last_policy_finds_a_winner_that_exists():
    games, starts, references = draw("bradley_terry")
    assert (duality_gap(games, np.exp(play(SPPO(0.5), games, starts, references, 1024)[-1])) < 1e-3).all()


@pytest.mark.parametrize("kind", [UNEVEN, "random"])
def test_onpo_average_is_better_than_sppos_on_every_seed(kind):
    games, starts, references = draw(kind)
    gaps = [
        duality_gap(games, np.exp(play(method, games, starts, references, 1023)).mean(axis=0))
        for method in (ONPO(0.5), SPPO(0.5))
    ]
    assert (gaps[0] < 0.75 * gaps[1]).all()


def test_onpo_last_policy_converges_where_sppos_circles():
    games, starts, references = draw(UNEVEN)
    onpo, sppo = (
        duality_gap(games, np.exp(play(m, games, starts, references, 1024)[-1])) for m in (ONPO(0.5), SPPO(0.5))
    )
    assert (onpo < 0.005).all()
    assert (sppo > 0.1).all()


# The regularised game: who reaches its equilibrium with the last policy, and who must not.


@pytest.mark.parametrize("kind", [EVEN, UNEVEN, "random"])
@pytest.mark.parametrize("method", [INPO(0.5, 0.1), EGPO(0.5, 0.1), MPO(0.5, 0.1)], ids=repr)
def test_small_steps_reach_the_regularised_equilibrium(method, kind):
    assert kl_curve(method, kind, 400)[-1].max() < 1e-8


@pytest.mark.parametrize("kind", [EVEN, UNEVEN])
def test_inpo_circles_at_a_step_with_which_egpo_converges(kind):
    inpo = kl_curve(INPO(2.0, 0.02), kind, 1024)
    assert inpo[-200:].min() > 0.1
    assert kl_curve(EGPO(2.0, 0.02), kind, 1024)[-1].max() < 1e-8


@pytest.mark.parametrize("kind", [EVEN, UNEVEN, "random"])
def test_nash_md_with_a_constant_step_keeps_a_bias(kind):
    curve = kl_curve(NashMD(0.1, eta=0.5), kind, 1024)
    assert curve[-1].min() > 1e-6
    assert curve[-1].max() < 1e-3
    np.testing.assert_allclose(curve[-1], curve[-100], rtol=1e-6)  # it has arrived, elsewhere


@pytest.mark.parametrize("kind", [EVEN, UNEVEN, "random"])
def test_nash_md_with_decaying_steps_converges_like_one_over_t_squared(kind):
    curve = kl_curve(NashMD(0.1), kind, 1024)
    # 1e-6 at T = 2000, scaled by (2000 / 1024)^2.
    assert curve[-1].max() < 3.8e-6
    np.testing.assert_allclose(curve[512] / curve[1024], 4, rtol=0.5)


def test_fully_trained_online_ipo_chases_its_own_tail():
    assert kl_curve(OnlineIPO(0.1), EVEN, 400)[-100:].min() > 1


@pytest.mark.parametrize("history_weights", [(1.0, 1.0), (0.25, 0.75), (1.0, 1.0, 1.0)])
def test_a_history_makes_large_steps_stable_only_against_the_newest_policy(history_weights):
    assert kl_curve(TDMNPO(2.0, 0.025, history_weights), EVEN, 1024)[-1].max() < 1e-12
    assert kl_curve(TDMNPO(2.0, 0.025, history_weights, mixture_opponent=True), EVEN, 1024)[-1].min() > 0.1


def test_without_a_history_the_same_step_circles():
    assert kl_curve(TDMNPO(2.0, 0.025), EVEN, 1024)[-1].min() > 0.1


# DPO: what the Bradley-Terry fit can and cannot see.


def test_the_fit_recovers_rewards_whatever_the_weights():
    rewards = np.array([1.0, -0.5, 0.2, 3.0])
    probs = 1 / (1 + np.exp(rewards[None, :] - rewards[:, None]))
    log_weights = normalise(np.array([0.0, -300.0, 2.0, -3.0]))
    expected = rewards - (np.exp(log_weights) * rewards).sum()
    np.testing.assert_allclose(bradley_terry_scores(probs, log_weights), expected, atol=1e-9)


def test_the_fit_is_the_optimum_of_the_likelihood():
    probs = game_zoo.random(6, seed=0)
    weights = np.random.default_rng(0).dirichlet(np.ones(6))

    def likelihood(scores):
        pairs = weights[:, None] * weights[None, :] * probs
        return -(pairs * np.logaddexp(0, scores[None, :] - scores[:, None])).sum()

    scores = bradley_terry_scores(probs, np.log(weights))
    others = scores + 0.01 * np.random.default_rng(1).standard_normal((200, 6))
    assert max(likelihood(other) for other in others) < likelihood(scores)


def test_certain_preferences_leave_finite_scores():
    scores = bradley_terry_scores(np.array([[0.5, 1.0], [0.0, 0.5]]), np.zeros(2))
    assert 20 < scores[0] - scores[1] < 40


def test_label_smoothing_is_the_fit_of_smoothed_labels():
    games, _, references = (array[0] for array in draw(UNEVEN))
    smoothed = OfflineDPO(beta=1.0, label_smoothing=0.1)
    plain = OfflineDPO(beta=1.0)
    np.testing.assert_allclose(
        play(smoothed, games, references, references, 1), play(plain, 0.8 * games + 0.1, references, references, 1)
    )


def test_offline_dpo_tilts_the_reference_by_the_scores():
    games, starts, references = (array[0] for array in draw("bradley_terry", n=4))
    tilted = references + bradley_terry_scores(games, np.zeros(4)) / 0.5
    played = play(OfflineDPO(beta=0.5), games, starts, references, 2)
    np.testing.assert_allclose(played[1], normalise(tilted), atol=1e-12)
    np.testing.assert_array_equal(played[1], played[2])


def test_offline_dpo_can_miss_a_condorcet_winner():
    games, starts, references = draw("condorcet", num_seeds=5)
    missed = duality_gap(games, np.exp(play(OfflineDPO(beta=0.01), games, starts, references, 1)[-1]))
    assert missed.max() > 0.2


def test_iterative_dpo_finds_the_winner_of_a_transitive_game():
    games, starts, references = draw("bradley_terry")
    assert (duality_gap(games, np.exp(play(IterativeDPO(1.0), games, starts, references, 300)[-1])) < 1e-3).all()


def test_iterative_dpo_stays_exploitable_without_a_winner():
    games, starts, references = draw(UNEVEN)
    last = np.exp(play(IterativeDPO(1.0), games, starts, references, 300)[251:])
    assert (duality_gap(games, last).mean(axis=0) > 0.5).all()


# Arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SPPO(0.0), "eta must be a positive number, got 0.0"),
        (lambda: ONPO(float("nan")), "eta must be a positive number"),
        (lambda: SPPO(float("inf")), "eta must be a positive number"),
        (lambda: INPO(0.5, -0.1), "tau must be a positive number"),
        (lambda: EGPO(20.0, 0.1), "at most 1, got 20 [*] 0.1"),
        (lambda: NashMD(0.1, eta=20.0), "at most 1"),
        (lambda: MPO(0.5, 0.0), "tau must be a positive number"),
        (lambda: OnlineIPO(0.0), "tau must be a positive number"),
        (lambda: TDMNPO(0.5, 0.1, ()), "history_weights must be"),
        (lambda: TDMNPO(0.5, 0.1, (1.0, -1.0)), "history_weights must be"),
        (lambda: TDMNPO(0.5, 0.1, (0.0, 1.0)), r"history_weights\[0\]"),
        (lambda: IterativeDPO(0.0), "beta must be a positive number"),
        (lambda: OfflineDPO(0.1, label_smoothing=0.5), "label_smoothing must be"),
    ],
)
def test_impossible_arguments_are_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_method_of_ones_own_needs_only_its_rounds():
    class Stubborn(TabularMethod):
        def rounds(self, probs_NN, start_N, reference_N):
            while True:
                yield normalise(start_N)

    games, starts, references = draw(UNEVEN)
    np.testing.assert_allclose(play(Stubborn(), games, starts, references, 2)[2], starts, atol=1e-14)


def test_a_method_shows_the_settings_that_are_on():
    assert repr(INPO(0.5, 0.1)) == "INPO(eta=0.5, tau=0.1)"
    assert repr(NashMD(0.1)) == "NashMD(tau=0.1)"
    assert repr(IterativeDPO(1.0, label_smoothing=0.1)) == "IterativeDPO(beta=1.0, label_smoothing=0.1)"
