import math
from dataclasses import replace

import pytest
import torch

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import KTO


def test_by_hand(golden):
    inputs = golden(kl_logps_R=torch.tensor([0.5, -0.1, 0.2]))  # z = 0.2
    objective = KTO(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    # Rows 0-2 win more than half, rows 3-5 less; rho = 0.8, -1.1, 0.3, -1.0, 0.7, -1.4.
    good = [2 / (1 + math.exp(0.5 * (rho - 0.2))) for rho in (0.8, -1.1, 0.3)]
    bad = [3 / (1 + math.exp(0.5 * (0.2 - rho))) for rho in (-1.0, 0.7, -1.4)]
    assert objective(inputs).loss.tolist() == pytest.approx(good + bad, rel=1e-5)


def test_no_gradient_flows_through_the_kl(random_inputs):
    objective = KTO()
    inputs = random_inputs(objective.needs)
    inputs = replace(inputs, kl_logps_R=inputs.kl_logps_R.clone().requires_grad_())
    loss = objective(inputs).loss.sum()
    grads = torch.autograd.grad(loss, [inputs.policy_logps_R, inputs.kl_logps_R], allow_unused=True)
    assert grads[0] is not None
    assert grads[1] is None


@pytest.mark.parametrize("kl_logps_R", [None, torch.empty(0)])
def test_missing_mismatched_rows_are_refused(golden, kl_logps_R):
    with pytest.raises(ConfigError, match=r"KTO needs .*kl_logps_R.*KTOPair"):
        KTO()(golden(kl_logps_R=kl_logps_R))
