import pytest
import torch

from sppo_lightning.objectives import DPO


def test_golden_values_against_the_fixed_reference(golden):
    loss_M = DPO(beta=0.1, reference="anchor")(golden()).loss
    torch.testing.assert_close(loss_M, torch.tensor([0.60719, 0.78719, 0.61176]), rtol=1e-4, atol=0)
    assert loss_M.mean().item() == pytest.approx(0.668713, rel=1e-4)
