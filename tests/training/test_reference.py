"""Frozen log-probabilities are those of the policy that the name says."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import GPO
from sppo_lightning.training.reference import existing_policies
from sppo_lightning.training.schedules import PlayThenTrain

POLICY_OF = {
    # (round, name) -> the policy, by its export; None is the start
    (0, "previous"): None,
    (0, "anchor"): None,
    (1, "previous"): 0,
    (1, "anchor"): None,
    (1, "history/1"): None,
    (2, "previous"): 1,
    (2, "anchor"): None,
    (2, "history/1"): 0,
    (2, "history/2"): None,
}


@pytest.fixture(scope="module")
def models(finished_run, policy_folder):
    """The three policies that played, from disk by transformers alone."""
    exports = {index: finished_run.module.run_folder.export(index) for index in (0, 1)}
    return {key: AutoModelForCausalLM.from_pretrained(path) for key, path in {None: policy_folder, **exports}.items()}


@torch.no_grad()
def direct(model, prompt_ids, response_ids):
    """Log pi(response | prompt) from the definition, one unpadded row at a time."""
    logits = model(torch.tensor([[*prompt_ids, *response_ids]])).logits[0]
    logps = logits[len(prompt_ids) - 1 : -1].log_softmax(-1)
    return float(logps[torch.arange(len(response_ids)), response_ids].sum())


@pytest.mark.parametrize("round_index", [0, 1, 2])
def test_each_name_is_computed_with_its_policy(finished_run, models, round_index):
    folder = finished_run.module.run_folder.round(round_index)
    num_chunks = folder.settings["num_chunks"]
    prompts = {row["prompt_id"]: row["prompt_token_ids"] for row in folder.read_prompts().to_pylist()}
    responses = {
        (row["prompt_id"], row["candidate"]): row["token_ids"]
        for row in folder.read_stage("candidates", num_chunks).to_pylist()
    }
    names = {name for index, name in POLICY_OF if index == round_index}
    stages = {path.name for path in (folder.path / "reference_logps").iterdir()}
    assert stages == {name.replace("/", "_") for name in names}, "exactly what the objective needs and the round has"
    for name in names:
        rows = folder.read_stage(f"reference_logps/{name.replace('/', '_')}", num_chunks).to_pylist()
        assert len(rows) > 3
        for row in rows:
            expected = {
                key: direct(model, prompts[row["prompt_id"]], responses[row["prompt_id"], row["candidate"]])
                for key, model in models.items()
            }
            right = POLICY_OF[round_index, name]
            assert row["logp"] == pytest.approx(expected.pop(right), abs=1e-4)
            assert all(abs(row["logp"] - wrong) > 1e-3 for wrong in expected.values())


def test_they_reach_the_objective_by_name(finished_run):
    by_step = {step.step: step.round for step in finished_run.steps}
    for step, packs in finished_run.batches.items():
        expected = {name for index, name in POLICY_OF if index == by_step[step]}
        for inputs in packs:
            assert set(inputs.frozen_logps) == expected
            assert not any(logps_R.requires_grad for logps_R in inputs.frozen_logps.values())
            if by_step[step] == 1:
                assert torch.equal(inputs.frozen_logps["anchor"], inputs.frozen_logps["history/1"])


def test_the_log_partition_estimate_reaches_the_objective(finished_run):
    folder = finished_run.module.run_folder.round(0)
    rates = {}
    for row in folder.read_table("targets").to_pylist():
        rates.setdefault(row["prompt_id"], []).append(row["win_rate"])
    expected = {finished_run.module.objective.log_z(torch.tensor(values)) for values in rates.values()}
    seen = {float(value) for inputs in finished_run.batches[0] for value in inputs.log_z_R}
    assert len(seen) == 4, "one a prompt of the first step"
    assert all(any(value == pytest.approx(one, abs=1e-6) for one in expected) for value in seen)


def test_the_oracle_s_scores_reach_the_objective(finished_run):
    folder = finished_run.module.run_folder.round(0)
    expected = {round(row["score"], 5) for row in folder.read_table("targets").to_pylist()}
    seen = {round(float(value), 5) for inputs in finished_run.batches[0] for value in inputs.score_R}
    assert len(seen) > 2
    assert seen <= expected


@pytest.mark.parametrize(
    ("name", "way_out"),
    [("auxiliary", "Set model.schedule TwoFits"), ("player/1", "Set model.schedule Players"), ("prevous", "There are")],
)
def test_a_policy_that_no_phase_trains_is_refused(name, way_out):
    with pytest.raises(
        ConfigError, match=f"'{name}', and model.schedule PlayThenTrain has none of that name. {way_out}"
    ):
        existing_policies(("previous", name), PlayThenTrain(), 0, 5)


def test_a_history_reaches_back_to_the_start_and_no_further():
    needs = ("anchor", "previous", "history/1", "history/3")
    assert existing_policies(needs, PlayThenTrain(), 0, 0) == ("anchor", "previous")
    assert existing_policies(needs, PlayThenTrain(), 0, 2) == ("anchor", "previous", "history/1")
    assert existing_policies(needs, PlayThenTrain(), 0, 3) == needs


def test_gpo_regresses_onto_the_oracle_s_scores(tiny, policy_folder, tmp_path):
    run = tiny.make_run(
        tmp_path,
        policy_folder,
        module_args={"objective": GPO(eta=2.0)},
        opponent=tiny.self_play(),
        num_rounds=1,
        epochs_per_round=1,
        global_batch_prompts=11,
    ).fit()
    rows = run.module.run_folder.round(0).read_table("targets").to_pylist()
    scores = torch.tensor([row["score"] for row in rows if row["trained"]])
    # At the first step pi = pi_t, so the loss is (eta score)^2.
    assert run.metrics("train/loss_over_eta2")[0] == pytest.approx(float(scores.square().mean()), rel=1e-3)
