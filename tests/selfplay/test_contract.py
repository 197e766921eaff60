"""What every pairing rule and every opponent promises, checked on every concrete subclass the package holds."""

import importlib
import inspect
import pkgutil
import warnings

import pytest
import torch

import sppo_lightning.selfplay
from sppo_lightning.selfplay.opponents import Fixed, Opponent
from sppo_lightning.selfplay.pairing import Pairing


def concrete(base):
    """The concrete subclasses of `base` defined under `sppo_lightning.selfplay`, by name."""
    for module in pkgutil.walk_packages(sppo_lightning.selfplay.__path__, "sppo_lightning.selfplay."):
        importlib.import_module(module.name)
    found, waiting = set(), [base]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        waiting += subclasses
        found |= {cls for cls in subclasses if cls.__module__.startswith("sppo_lightning.selfplay")}
    return sorted((cls for cls in found if not inspect.isabstract(cls)), key=lambda cls: cls.__name__)


EVERY_PAIRING = pytest.mark.parametrize("cls", concrete(Pairing), ids=lambda cls: cls.__name__)
EVERY_OPPONENT = pytest.mark.parametrize("cls", concrete(Opponent), ids=lambda cls: cls.__name__)


def random_prompt(seed):
    """A prompt's preferences as `play_round` hands them over; K is 1 to 6, and some of it was not judged."""
    generator = torch.Generator().manual_seed(seed)
    K = seed % 6 + 1
    upper = torch.rand(K, K, generator=generator).triu(1)
    probs_KK = upper + (1 - upper).T.tril(-1) + torch.eye(K) / 2
    judged = torch.rand(K, K, generator=generator).triu(1) < 0.8
    judged_KK = judged.triu(1) | judged.triu(1).T | torch.eye(K, dtype=torch.bool)
    counted = judged_KK & ~torch.eye(K, dtype=torch.bool)
    win_rate_K = torch.where(counted, probs_KK, 0).sum(1) / counted.sum(1)
    trainable_K = ~win_rate_K.isnan() & (torch.rand(K, generator=generator) < 0.8)
    return probs_KK, judged_KK, win_rate_K, trainable_K


ARGUMENTS = {Fixed: {"policies": ["one", "two"], "mixture": [3.0, 1.0]}}

SEEDS = range(120)


def test_the_sockets_have_members():
    assert len(concrete(Pairing)) >= 2
    assert len(concrete(Opponent)) >= 2


@EVERY_PAIRING
def test_rows_are_trainable_and_pairs_are_judged_comparisons_of_rows(cls):
    seen_pairs = 0
    for seed in SEEDS:
        probs_KK, judged_KK, win_rate_K, trainable_K = random_prompt(seed)
        targets = cls()(probs_KK, judged_KK, win_rate_K, trainable_K)
        torch.testing.assert_close(targets.win_rate_K, win_rate_K, rtol=0, atol=0, equal_nan=True)
        assert len(set(targets.rows)) == len(targets.rows) == len(targets.row_weights)
        assert all(trainable_K[k] for k in targets.rows)
        assert all(weight >= 0 for weight in (*targets.row_weights, *targets.pair_weights))
        assert len(set(targets.pairs)) == len(targets.pairs) == len(targets.pair_probs) == len(targets.pair_weights)
        for (i, j), prob in zip(targets.pairs, targets.pair_probs, strict=True):
            assert i != j
            assert {i, j} <= set(targets.rows)
            assert judged_KK[i, j]
            assert prob == float(probs_KK[i, j])
            seen_pairs += 1
    assert seen_pairs > 20


@EVERY_PAIRING
def test_one_response_alone_teaches_nothing(cls):
    for seed in SEEDS:
        probs_KK, judged_KK, win_rate_K, trainable_K = random_prompt(seed)
        if trainable_K.sum() < 2:
            targets = cls()(probs_KK, judged_KK, win_rate_K, trainable_K)
            assert targets.rows == targets.pairs == ()


@EVERY_PAIRING
def test_nothing_is_read_where_nothing_was_judged_or_may_be_trained(cls):
    for seed in SEEDS:
        probs_KK, judged_KK, win_rate_K, trainable_K = random_prompt(seed)
        clean = cls()(probs_KK, judged_KK, win_rate_K, trainable_K)
        rubbish = torch.where(judged_KK, probs_KK, torch.tensor(0.987))
        spoilt = cls()(rubbish, judged_KK, torch.where(trainable_K, win_rate_K, 0.999), trainable_K)
        assert (spoilt.rows, spoilt.pairs, spoilt.pair_probs) == (clean.rows, clean.pairs, clean.pair_probs)


@EVERY_PAIRING
def test_the_order_of_the_candidates_does_not_matter(cls):
    for seed in SEEDS:
        probs_KK, judged_KK, win_rate_K, trainable_K = random_prompt(seed)
        order = torch.randperm(len(win_rate_K), generator=torch.Generator().manual_seed(seed))
        straight = cls()(probs_KK, judged_KK, win_rate_K, trainable_K)
        shuffled = cls()(probs_KK[order][:, order], judged_KK[order][:, order], win_rate_K[order], trainable_K[order])
        assert {int(order[k]) for k in shuffled.rows} == set(straight.rows)
        back = {
            (int(order[i]), int(order[j])): p for (i, j), p in zip(shuffled.pairs, shuffled.pair_probs, strict=True)
        }
        assert back == dict(zip(straight.pairs, straight.pair_probs, strict=True))


@EVERY_PAIRING
def test_inputs_are_not_written_to(cls):
    for seed in SEEDS:
        inputs, before = random_prompt(seed), random_prompt(seed)
        cls()(*inputs)
        assert all(
            torch.equal(now.nan_to_num(-1), then.nan_to_num(-1)) for now, then in zip(inputs, before, strict=True)
        )


@EVERY_OPPONENT
def test_an_opponent_is_a_mixture_of_policies_that_exist(cls):
    opponent = cls(**ARGUMENTS.get(cls, {}))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for num_past in (0, 1, 2, 5, 0):
            weights = opponent.weights(num_past)
            assert sum(weights.values()) == pytest.approx(1)
            assert all(weight > 0 for weight in weights.values())
            lags = [int(name.removeprefix("history/")) for name in weights if name.startswith("history/")]
            assert all(1 <= lag <= num_past for lag in lags)
            assert opponent.weights(num_past) == weights
    assert len(said) <= 1
