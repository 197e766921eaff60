"""A run that begins with another run's round: what is shared, what is made anew, what is refused."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.objectives import DPO
from sppo_lightning.selfplay.pairing import BestWorst
from sppo_lightning.training.data import RunPaused
from sppo_lightning.training.fork import Fork
from sppo_lightning.training.run_folder import RunFolder


@pytest.fixture
def forked(tiny, policy_folder, finished_run, tmp_path):
    """forked(**settings) -> a run that begins with the finished run's second round, not yet fitted."""

    def forked(**settings):
        return tiny.make_run(
            tmp_path / "fork",
            policy_folder,
            **{
                "module_args": {"objective": DPO()},
                "pairing": BestWorst(),
                "num_rounds": 2,
                "epochs_per_round": 1,
                "fork_from": f"{finished_run.root}@round_001",
            }
            | settings,
        )

    return forked


def inodes(folder, stage):
    return {path.name: path.stat().st_ino for path in (folder.path / stage).rglob("*.parquet")}


def test_a_fork_trains_another_objective_on_shared_files(forked, finished_run):
    run = forked()
    calls = type(run.data.oracle).calls
    run.fit()
    assert type(run.data.oracle).calls == calls, "nothing is judged again"
    ours, theirs = run.module.run_folder.round(1), finished_run.module.run_folder.round(1)
    for stage in ("candidates", "opponents", "preferences"):
        assert inodes(ours, stage) == inodes(theirs, stage) != {}
    assert ours.settings == theirs.settings
    assert ours.read_table("pairs").num_rows < theirs.read_table("pairs").num_rows, "its own pairing"
    assert (ours.path / "reference_logps").is_dir()
    assert not (ours.path / "reference_logps" / "anchor").exists(), "its own objective"
    assert [step.round for step in run.steps] == [1] * len(run.steps)
    assert run.module.run_folder.export(1).is_dir()
    assert ours.manifest["policy"] == "round_000"


def test_a_fork_begins_with_the_policy_that_played_the_round(forked, finished_run):
    run = forked(stop_after="play")
    with pytest.raises(RunPaused):
        run.fit()
    source = AutoModelForCausalLM.from_pretrained(finished_run.module.run_folder.export(0))
    assert all(torch.equal(v, run.module.policy.state_dict()[name]) for name, v in source.state_dict().items())
    assert inodes_of_export(run) == inodes_of_export(finished_run)


def inodes_of_export(run):
    return (run.module.run_folder.export(0) / "model.safetensors").stat().st_ino


def with_config(folder, **config):
    """A run folder that says what it was started with."""
    RunFolder(folder).update(config=config)
    return RunFolder(folder)


@pytest.mark.parametrize(("oracle", "shared"), [("TheSame", True), ("Another", False)])
@pytest.mark.parametrize("key", ["oracle.class_path", "judging.pair_share"])
def test_verdicts_are_shared_between_equal_oracles_only(finished_run, tmp_path, key, oracle, shared):
    before = finished_run.module.run_folder.state
    key = f"data.init_args.{key}"
    source = with_config(finished_run.root, **{key: "TheSame"})
    try:
        run = with_config(tmp_path, **{key: oracle})
        Fork.parse(f"{source}@round_001", 2).link(run)
    finally:
        source.update(config=before.get("config", {}))
    assert (run.round(1).path / "preferences").is_dir() == shared
    assert (run.round(1).path / "candidates").is_dir()
    assert not run.round(1).is_committed
    assert not (run.round(1).path / "targets.parquet").exists()


@pytest.mark.parametrize(("opponent", "shared"), [("TheSame", True), ("Another", False)])
def test_opponents_and_verdicts_against_them_are_shared_between_equal_opponents_only(
    finished_run, tmp_path, opponent, shared
):
    before = finished_run.module.run_folder.state
    assert (finished_run.module.run_folder.round(1).path / "opponents").is_dir(), "the example must have opponents"
    source = with_config(finished_run.root, **{"data.init_args.opponent.class_path": "TheSame"})
    try:
        run = with_config(tmp_path, **{"data.init_args.opponent.class_path": opponent})
        Fork.parse(f"{source}@round_001", 2).link(run)
    finally:
        source.update(config=before.get("config", {}))
    folder = run.round(1).path
    assert (folder / "opponents").is_dir() == shared
    assert {path.name for path in folder.glob("preferences/*/*")} == ({"self", "history_1"} if shared else {"self"})


def test_another_start_policy_is_refused(finished_run, tmp_path):
    run = with_config(tmp_path, **{"model.init_args.policy": "elsewhere"})
    with pytest.raises(ConfigError, match="a fork has its source's start policy"):
        Fork.parse(f"{finished_run.root}@round_001", 2).link(run)


def test_a_round_that_is_not_complete_is_refused(finished_run, tmp_path):
    with pytest.raises(ConfigError, match=r"round_007 is not a complete round"):
        Fork.parse(f"{finished_run.root}@round_007", 9).link(RunFolder(tmp_path))


def test_a_damaged_source_is_refused(forked, finished_run, tmp_path):
    copy = tmp_path / "source"
    shutil.copytree(finished_run.root, copy)
    chunk = next((copy / "rounds" / "round_001" / "candidates").iterdir())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=f"{chunk.name} is damaged"):
        forked(fork_from=f"{copy}@round_001").fit()


@pytest.mark.parametrize("text", ["runs/quickstart", "run@1", "run@round_", "@round_001", "run@round_x"])
def test_where_it_begins_must_be_said_in_this_form(text):
    with pytest.raises(ConfigError, match=r"data.fork_from must look like runs/quickstart@round_001"):
        Fork.parse(text, 3)


def test_the_number_of_rounds_counts_from_the_source_s_first():
    with pytest.raises(ConfigError, match="a run forked at round 3 needs at least 4, got 3"):
        Fork.parse("run@round_003", 3)


def test_a_fork_is_never_trained_on_what_it_is_tested_with(forked):
    with pytest.raises(ConfigError, match=r"of the shared round's \d+ prompts are held out for evaluation"):
        forked(seed=99).fit()


def test_a_fork_says_that_the_shared_round_keeps_its_number_of_responses(forked):
    run = forked(num_candidates=7, stop_after="play")
    with (
        pytest.warns(UserWarning, match=r"data\.num_candidates: the shared round has \d responses"),
        pytest.raises(RunPaused),
    ):
        run.fit()
