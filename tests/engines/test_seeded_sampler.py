import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from sppo_lightning.engines.seeded_sampler import SeededSampler, inverse_cdf
from sppo_lightning.types import SamplingConfig

ALMOST_ONE = float(np.nextafter(1.0, 0.0))


def choose(probs, uniform):
    return int(inverse_cdf(torch.tensor([probs]), torch.tensor([[uniform]], dtype=torch.float64)))


def chosen(scores_NV):
    """The only token that is left possible in each row."""
    assert ((scores_NV > -torch.inf).sum(dim=-1) == 1).all()
    return scores_NV.argmax(dim=-1).tolist()


def sample(seeds, sampling, logits_V, steps=1):
    """[N][S] tokens that rows with these seeds take from the same logits."""
    sampler = SeededSampler(seeds, sampling)
    return list(zip(*[chosen(sampler(None, logits_V.repeat(len(seeds), 1))) for _ in range(steps)], strict=True))


def test_token_is_where_the_cumulative_probability_passes_the_number():
    probs = [0.25, 0.5, 0.25]
    assert [choose(probs, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, ALMOST_ONE)] == [0, 0, 1, 1, 2, 2]


def test_tokens_of_probability_zero_are_never_taken():
    probs = [0.0, 0.5, 0.0, 0.5, 0.0]
    assert [choose(probs, u) for u in (0.0, 0.4999, 0.5, ALMOST_ONE)] == [1, 1, 3, 3]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50), st.floats(0, 1, exclude_max=True))
def test_any_probabilities_and_any_number_give_a_possible_token(probs, uniform):
    if sum(probs) > 0:
        assert probs[choose(probs, uniform)] > 0


def test_unlikely_tokens_of_a_big_vocabulary_are_not_rounded_away():
    probs_1V = torch.full((1, 128_000), 1e-9)
    probs_1V[0, 0] = 1 - 128_000e-9
    cdf_V = probs_1V[0].double().cumsum(0)
    for token in (1, 63_999, 127_999):
        middle = (cdf_V[token - 1] + cdf_V[token]) / 2 / cdf_V[-1]
        assert int(inverse_cdf(probs_1V, middle.reshape(1, 1))) == token


def test_all_bits_of_a_seed_count():
    logits_V = torch.zeros(1000)
    seeds = [5, 5 + 2**32, 5 + 2**40, 5 + 2**62]
    assert len(set(sample(seeds, SamplingConfig(max_new_tokens=8), logits_V, steps=8))) == len(seeds)


def test_a_longer_limit_continues_the_same_response():
    logits_V = torch.linspace(0, 3, 1000)
    short = sample([3, 4], SamplingConfig(max_new_tokens=4), logits_V, steps=4)
    long = sample([3, 4], SamplingConfig(max_new_tokens=16), logits_V, steps=16)
    assert [row[:4] for row in long] == short


def test_rows_keep_their_streams_when_others_are_let_go():
    logits_V, sampling = torch.zeros(1000), SamplingConfig(max_new_tokens=3)
    expected = sample([5, 6, 7, 8], sampling, logits_V, steps=3)
    sampler = SeededSampler([5, 6, 7, 8], sampling)
    first = chosen(sampler(None, logits_V.repeat(4, 1)))
    sampler.keep([0, 2, 3])
    second = chosen(sampler(None, logits_V.repeat(3, 1)))
    sampler.keep([1])  # the third of the four
    third = chosen(sampler(None, logits_V.repeat(1, 1)))
    assert first == [row[0] for row in expected]
    assert second == [expected[row][1] for row in (0, 2, 3)]
    assert third == [expected[2][2]]
    assert (sampler.chosen_logps < 0).tolist() == [
        [True, True, False],
        [True, False, False],
        [True] * 3,
        [True, True, False],
    ]


def test_steps_of_a_row_and_rows_of_a_step_are_independent():
    sampling = SamplingConfig(max_new_tokens=2)
    pairs = sample(range(4000), sampling, torch.zeros(4), steps=2)
    counts = np.bincount([4 * first + second for first, second in pairs], minlength=16)
    assert chisquare(counts).pvalue > 1e-4
    firsts = [first for first, _ in pairs]
    neighbours = np.bincount(
        [4 * one + other for one, other in zip(firsts[::2], firsts[1::2], strict=True)], minlength=16
    )
    assert chisquare(neighbours).pvalue > 1e-4


def test_log_probabilities_are_those_of_the_unfiltered_policy_at_temperature_one():
    logits_NV = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    sampler = SeededSampler(range(6), SamplingConfig(temperature=0.3, top_p=0.5, top_k=4, max_new_tokens=1))
    tokens = torch.tensor(chosen(sampler(None, logits_NV)))
    expected_N = logits_NV.log_softmax(-1)[torch.arange(6), tokens]
    torch.testing.assert_close(sampler.chosen_logps, expected_N[:, None])


def test_temperature_zero_takes_the_most_likely_token():
    assert (
        sample([1, 2, 3], SamplingConfig(temperature=0, max_new_tokens=1), torch.tensor([0.0, 2.0, 1.9])) == [(1,)] * 3
    )


def test_deterministic_mode_is_suspended_for_the_cumulative_sum_alone(monkeypatch):
    modes = []

    def spy(probs_NV, uniforms_N1):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return inverse_cdf(probs_NV, uniforms_N1)

    monkeypatch.setattr("sppo_lightning.engines.seeded_sampler.inverse_cdf", spy)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        sample([1], SamplingConfig(max_new_tokens=1), torch.zeros(4))
        assert modes == [False]
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
