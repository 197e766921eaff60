"""What the gaps callback logs is what its files say, and what can be computed again from the stored responses."""

import json

import numpy as np
import pytest

from sppo_lightning import callbacks
from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.contestants import read_contestant
from sppo_lightning.evaluation.mixture import Mixture

POLICIES = ["start", "round_000", "round_001", "round_002"]


def report(run, round_index, name):
    return json.loads((run.root / "eval" / f"round_{round_index:03d}" / f"{name}.json").read_text())


@pytest.mark.parametrize("round_index", [0, 1, 2])
def test_what_was_logged_is_on_disk(finished_run, round_index):
    gaps = report(finished_run, round_index, "gaps")
    for name, value in gaps["metrics"].items():
        logged = finished_run.metrics(name)
        assert logged == {} if name.endswith(("_low", "_high")) else logged[round_index] == value
    assert gaps["policy"] == POLICIES[round_index + 1]
    for policy, suffix in (("last", ""), ("mixture", "_mixture")):
        for gap in gaps["gaps"][policy]:
            assert gap["estimate"] == gaps["metrics"][f"{gap['name']}{suffix}"]
            assert 0 <= gap["low"] <= gap["estimate"] <= gap["high"] <= 1
            assert "lower bound" in gap["meaning"]
    assert [entry["n"] for entry in gaps["best_of_n"]] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("round_index", [0, 1, 2])
def test_the_matrix_is_of_all_policies_so_far_and_the_mixture(finished_run, round_index):
    match = report(finished_run, round_index, "head_to_head")
    assert match["names"] == [*POLICIES[: round_index + 2], "mixture"]
    win_rates = np.array(match["win_rates"])
    np.testing.assert_allclose(win_rates + win_rates.T, 1)
    new = round_index + 1
    assert win_rates[new, 0] == pytest.approx(finished_run.metrics("round/win_rate_vs_start")[round_index])
    assert win_rates[new, new - 1] == pytest.approx(finished_run.metrics("round/win_rate_vs_previous")[round_index])
    weights = report(finished_run, round_index, "gaps")["mixture"]["members"]
    assert list(weights) == POLICIES[: round_index + 2]
    expected = win_rates[:-1, :-1] @ np.array(list(weights.values()))
    np.testing.assert_allclose(win_rates[:-1, -1], expected)


def test_earlier_pairs_are_not_judged_again(finished_run):
    early, late = (np.array(report(finished_run, round_index, "head_to_head")["win_rates"]) for round_index in (1, 2))
    assert (early[:3, :3] == late[:3, :3]).all()


def test_the_mixture_can_be_read_and_played(finished_run):
    path = finished_run.root / "exports" / "mixture.json"
    weights = report(finished_run, 2, "gaps")["mixture"]["members"]
    mixture = Mixture.read(path)
    assert list(mixture.members.values()) == list(weights.values())
    assert mixture.reason
    contestant = read_contestant("mixture", finished_run.root, start=finished_run.module.policy_source)
    assert {member.name: weight for member, weight in contestant.members} == {k: w for k, w in weights.items() if w > 0}


def test_the_average_is_written_and_measured(finished_run):
    from safetensors.torch import load_file

    for round_index in (0, 1, 2):
        average = report(finished_run, round_index, "average")
        assert finished_run.metrics("gap/best_of_n_average")[round_index] == average["gap/best_of_n_average"]
        assert average["gap/best_of_n_average_low"] <= average["gap/best_of_n_average"]
        assert (
            0 <= average["round/win_rate_average_vs_start_low"] < average["round/win_rate_average_vs_start_high"] <= 1
        )
    mixture = Mixture.read(finished_run.root / "exports" / "mixture.json")
    found = load_file(finished_run.root / "exports" / "average_002" / "model.safetensors")
    expected = sum(
        weight * load_file(f"{source}/model.safetensors")["model.norm.weight"]
        for source, weight in mixture.members.items()
    )
    assert found["model.norm.weight"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("name", ["n", "num_samples", "num_prompts"])
def test_one_is_not_enough(name):
    with pytest.raises(ConfigError, match=f"Gaps: {name} must be at least 2, got 1"):
        callbacks.Gaps(**{name: 1})
