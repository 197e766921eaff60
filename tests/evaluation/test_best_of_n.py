"""The best of n never reads more than the best reply, grows with n, and is honest where there is nothing to find."""

from itertools import pairwise

import numpy as np
import pytest

from sppo_lightning.evaluation.best_of_n import (
    OpponentSamples,
    best_of_n,
    candidate_samples,
    doubling,
    opponent_samples,
)


def replies(here, table, opponent, n=32, num_samples=16, bases=("start",)):
    candidates = candidate_samples([table.member(name) for name in bases], n, first=num_samples)
    return opponent_samples(here.verdicts, candidates, opponent, num_samples)


def test_by_hand():
    # One prompt, two replies, four opponents, even places choose first. Reply 0 wins on the even half (1, 1), where it
    # is chosen, and scores 0.2 on the odd one; reply 1 is chosen on the odd half and scores 0.1 on the even one.
    probs = np.array([[[1.0, 0.2, 1.0, 0.2], [0.1, 0.9, 0.1, 0.9]]])
    against = OpponentSamples(probs_BKJ=probs, weights_J=np.full(4, 0.25), half_J=np.array([0, 1, 0, 1]))
    one, two = best_of_n(against)
    assert one.n == 1
    assert one.win_rate.estimate == pytest.approx((1.0 + 0.2) / 2)
    assert two.win_rate.estimate == pytest.approx((0.2 + 0.1) / 2)


def test_noise_alone_reads_one_half():
    """Every reply truly wins half the time: the best by chance must not look better than that."""
    rng = np.random.default_rng(0)
    probs = (rng.random((400, 64, 8)) < 0.5).astype(float)
    against = OpponentSamples(probs_BKJ=probs, weights_J=np.full(8, 1 / 8), half_J=np.arange(8) % 2)
    found = best_of_n(against)
    assert [best.n for best in found] == [1, 2, 4, 8, 16, 32, 64]
    for best in found:
        assert best.win_rate.estimate == pytest.approx(0.5, abs=0.03)
    naive = probs.mean(axis=-1).max(axis=1).mean()
    assert naive > 0.85, "what choosing and scoring on the same responses would read"


def test_it_grows_with_n_towards_the_best_reply(world, table):
    found = best_of_n(replies(world(), table, table.single("papery")))
    rates = [best.win_rate.estimate for best in found]
    best_reply = float((table.game @ np.array(table.mixes["papery"])).max())
    assert all(later >= earlier - 0.01 for earlier, later in pairwise(rates))
    assert rates[0] < rates[-1] - 0.1
    assert rates[-1] == pytest.approx(best_reply, abs=0.03)
    assert found[-1].win_rate.low < best_reply


def test_several_bases_take_turns(table):
    candidates = candidate_samples([table.member("start"), table.member("even")], 5, first=8)
    assert [(str(samples), samples.count) for samples in candidates] == [("start.8-10", 3), ("even.8-9", 2)]
    once = candidate_samples([table.member("start"), table.member("start")], 5, first=8)
    assert [samples.count for samples in once] == [5]


def test_the_first_n_are_of_all_bases(world, table):
    here = world()
    both = replies(here, table, table.single("papery"), n=4, bases=("cornered", "start"))
    alone = replies(here, table, table.single("papery"), n=2, bases=("cornered",))
    np.testing.assert_allclose(both.probs_BKJ[:, [0, 2]], alone.probs_BKJ)


def test_a_mixture_is_answered_by_its_weights(world, table):
    here = world()
    against = replies(here, table, table.mixture(cornered=0.5, papery=0.5), num_samples=8)
    assert against.weights_J.sum() == pytest.approx(1)
    only_papery = against.reweighted([0.0, 1.0])
    alone = replies(here, table, table.single("papery"), num_samples=8)
    assert best_of_n(only_papery)[-1].win_rate == best_of_n(alone)[-1].win_rate
    assert len(against.at(np.arange(40) < 7).probs_BKJ) == 7


def test_prompts_without_a_verdict_are_left_out(world, table):
    here = world(judge=table.referee(silent=("p0", "p3")))
    best = best_of_n(replies(here, table, table.single("papery")))[-1]
    assert np.flatnonzero(np.isnan(best.win_rate_B)).tolist() == [0, 3]
    assert best.win_rate.estimate == pytest.approx(np.nanmean(best.win_rate_B))


def test_doubling():
    assert [doubling(most) for most in (1, 2, 3, 16, 20)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8, 16],
        [1, 2, 4, 8, 16, 20],
    ]
