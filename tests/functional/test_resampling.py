import numpy as np
import pytest

from sppo_lightning.functional.resampling import expanded_percentiles, prompt_weights, resampled_means


def test_every_resample_draws_as_many_prompts():
    weights_RB = prompt_weights(7, 50, seed=1)
    assert weights_RB.shape == (50, 7)
    assert (weights_RB.sum(axis=1) == 7).all()
    assert (weights_RB == prompt_weights(7, 50, seed=1)).all()
    assert (weights_RB != prompt_weights(7, 50, seed=2)).any()


def test_means_by_hand_and_without_what_is_missing():
    values = np.array([[1.0, 4.0], [2.0, np.nan], [6.0, np.nan]])
    means = resampled_means(values, np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]]))
    assert means[0].tolist() == [3.0, 4.0]
    assert means[1, 0] == pytest.approx(10 / 3)
    assert np.isnan(means[1, 1])


@pytest.mark.parametrize("num_prompts", [8, 24])
def test_intervals_for_few_prompts_cover(num_prompts):
    """Nominal 95 %: 92 to 98 in 100 over 500 simulations, where plain percentiles fall short."""
    rng, covered, plain = np.random.default_rng(0), 0, 0
    for seed in range(500):
        values_B = rng.normal(size=num_prompts)
        resamples = resampled_means(values_B, prompt_weights(num_prompts, 500, seed))
        low, high = expanded_percentiles(resamples, num_prompts)
        covered += low <= 0 <= high
        low, high = np.quantile(resamples, [0.025, 0.975])
        plain += low <= 0 <= high
    assert 0.92 <= covered / 500 <= 0.98
    assert covered > plain
