"""SPO on a table as it is played: draws, a queue, and against it the reward model."""

import numpy as np
import pytest

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.games import von_neumann_winner
from sppo_lightning.functional.tabular import SPPO, normalise, play
from sppo_lightning.functional.tabular_queue import QueueSelfPlay
from sppo_lightning.functional.tabular_reward import IterativeRewardModel

NUM_SEEDS = 10
GAME = game_zoo.rps(0.9, 0.7, 0.8)


def starts():
    """[S, 3] nearly all on one response, each in its turn."""
    shares = [np.roll([0.9, 0.05, 0.05], seed) * np.random.default_rng(seed).uniform(0.8, 1.2, 3) for seed in range(10)]
    return normalise(np.log(np.stack(shares)))


def policies(method, num_rounds):
    logps = starts()
    return np.exp(play(method, np.broadcast_to(GAME, (NUM_SEEDS, 3, 3)), logps, logps, num_rounds))


def test_from_a_corner_spo_averages_to_the_minimax_winner_and_a_reward_model_ends_in_a_corner():
    winner = von_neumann_winner(GAME).policy_N
    np.testing.assert_allclose(winner, [2 / 9, 3 / 9, 4 / 9], atol=1e-9)
    averages = policies(QueueSelfPlay(eta=0.05), 20_000)[:-1].mean(axis=0)
    assert (np.abs(averages - winner).max(axis=-1) < 0.02).sum() == NUM_SEEDS
    assert (policies(IterativeRewardModel(0.2), 3000)[-1].max(axis=-1) > 0.99).sum() == NUM_SEEDS


def test_one_round_is_on_average_one_of_multiplicative_weights():
    """But for eta / 2 in the denominator, which takes a little from rare responses."""
    logps, eta = normalise(np.log([0.5, 0.3, 0.2])), 1e-3
    after = play(QueueSelfPlay(eta, num_draws=50_000, queue_size=50_000), GAME, logps, logps, 1)[1]
    exact = play(SPPO(2 * eta), GAME, logps, logps, 1)[1]  # the reward 2 w - 1 is twice the win rate
    np.testing.assert_allclose((after - logps) / eta, (exact - logps) / eta, atol=0.05)


def test_a_queue_shorter_than_a_round_is_refused():
    with pytest.raises(ConfigError, match="queue_size must be at least num_draws = 8"):
        QueueSelfPlay(0.1, num_draws=8, queue_size=4)
