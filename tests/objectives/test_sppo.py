import pytest
import torch

from sppo_lightning.objectives import SPPO


@pytest.mark.parametrize(
    ("eta", "pair_means", "mean"),
    [(1000.0, [96814.086, 11081.025, 42130.109], 50008.406), (10.0, [7.93, 1.44, 3.125], 4.165)],
)
def test_golden_values_of_the_official_code(golden, eta, pair_means, mean):
    loss_R = SPPO(eta=eta)(golden()).loss
    torch.testing.assert_close((loss_R[:3] + loss_R[3:]) / 2, torch.tensor(pair_means), rtol=1e-4, atol=0)
    assert loss_R.mean().item() == pytest.approx(mean, rel=1e-4)
