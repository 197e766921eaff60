import pytest
import torch

from sppo_lightning.objectives import parts


def test_log_ratio_is_exactly_zero_where_all_policies_agree(golden):
    logps_R = golden().policy_logps_R * 17.3
    inputs = golden(policy_logps_R=logps_R, frozen_logps=dict.fromkeys(("anchor", "previous", "history/1"), logps_R))
    mix = parts.anchor_mix(1 / 3, {"previous": 0.7, "history/1": 0.1})
    assert torch.equal(parts.log_ratio(inputs, mix), torch.zeros(6))


def test_anchor_mix_sums_to_one():
    mix = parts.anchor_mix(0.85, {"previous": 0.25, "history/1": 0.75})
    assert mix == pytest.approx({"anchor": 0.85, "previous": 0.0375, "history/1": 0.1125})
    assert parts.anchor_mix(1.0, {"previous": 1.0}) == {"anchor": 1.0}


def test_accuracy_counts_a_tie_as_half():
    metrics = parts.margin_metrics(torch.tensor([2.0, 0.0, -3.0]), torch.ones(3))
    assert metrics["accuracy"][0].tolist() == [1.0, 0.5, 0.0]


def test_ratio_of_sums_is_exact_across_batches():
    weight = torch.tensor([1.0, 2.0, 0.5])
    top, bottom = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([-4.0, 0.0, 5.0])
    batches = [parts.ratio_of_sums(top[part], bottom[part], weight[part]) for part in (slice(0, 2), slice(2, 3))]
    combined = sum((value * w).item() for value, w in batches) / sum(w.item() for _, w in batches)
    assert combined == pytest.approx((1 + 4 + 1.5) / (4 + 2.5))
    assert parts.ratio_of_sums(top, bottom, weight)[0].item() == pytest.approx(combined)


def test_ratio_of_sums_without_a_denominator_weighs_nothing():
    value, weight = parts.ratio_of_sums(torch.ones(3), torch.zeros(3), torch.ones(3))
    assert (value.item(), weight.item()) == (0, 0)


def test_ratio_of_sums_carries_no_gradient():
    values = torch.ones(3, requires_grad=True)
    assert not any(part.requires_grad for part in parts.ratio_of_sums(values, 2 * values, torch.ones(3)))
