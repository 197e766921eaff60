"""Whoever a person names is found, keeps one name, and is never mistaken for another."""

import json
import re
import shutil

import pytest

from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.evaluation.contestants import Member, mixture_contestant, read_contestant
from sppo_lightning.evaluation.mixture import Mixture
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.sealed import write_sealed_json

START = "package:quickstart/policy"


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "run"
    for name in ("round_000", "round_001", "round_001/player_1"):
        (run / "exports" / name).mkdir(parents=True)
        (run / "exports" / name / "config.json").write_text("{}")
    write_sealed_json(run / "run.json", {"config": {"model.init_args.policy": START}})
    mixture = Mixture.uniform([START, str(run / "exports" / "round_000"), str(run / "exports" / "round_001")])
    mixture.write(run / "exports" / "mixture.json")
    return run


def only(contestant):
    ((member, weight),) = contestant.members
    assert weight == 1.0
    return member


def test_the_policies_of_a_run_by_name_and_by_folder(run):
    assert only(read_contestant("start", run)) == Member(name="start", source=START)
    assert only(read_contestant(START, run)).name == "start"
    assert only(read_contestant(resolve(START), run)).name == "start"
    export = run / "exports" / "round_001"
    assert only(read_contestant("round_001", run)) == Member(name="round_001", source=str(export))
    assert only(read_contestant(str(export), run)).name == "round_001"
    assert only(read_contestant("round_001/player_1", run)).name == "round_001_player_1"
    assert only(read_contestant(str(export / "player_1"), run)).name == "round_001_player_1"


def test_the_mixture_of_a_run_by_name_and_by_file(run):
    for text in ("mixture", str(run / "exports" / "mixture.json")):
        found = read_contestant(text, run)
        assert found.name == "mixture"
        assert [member.name for member, _ in found.members] == ["start", "round_000", "round_001"]
        assert sum(weight for _, weight in found.members) == pytest.approx(1)


def test_another_mixture_is_named_by_what_it_draws(run, tmp_path):
    exports = run / "exports"
    weights = {str(exports / "round_000"): 0.25, str(exports / "round_001"): 0.75}
    names = []
    for folder, members in (
        ("one", weights),
        ("two", {source: 1 - weight for source, weight in weights.items()}),
        ("three", dict(reversed(weights.items()))),
    ):
        (tmp_path / folder).mkdir()
        Mixture(members=members).write(tmp_path / folder / "mixture.json")
        names.append(read_contestant(str(tmp_path / folder / "mixture.json"), run).name)
    assert all(re.fullmatch(r"mixture-[0-9a-f]{8}", name) for name in names), "the run's own alone is `mixture`"
    assert names[0] != names[1], "other weights"
    assert names[0] == names[2], "the same in another order"


def test_members_of_weight_0_are_left_out(run):
    weights = {START: 0.0, str(run / "exports" / "round_000"): 1.0}
    assert only(mixture_contestant(Mixture(members=weights), run)).name == "round_000"


def test_outside_policies_are_named_by_what_they_weigh(run, tmp_path):
    shutil.copytree(resolve(START), tmp_path / "mine")
    name = only(read_contestant(str(tmp_path / "mine"))).name
    assert name.startswith("mine-")
    shutil.copytree(tmp_path / "mine", tmp_path / "other" / "mine")
    assert only(read_contestant(str(tmp_path / "other" / "mine"), run)).name == name, "the same weights"
    config = tmp_path / "third" / "mine" / "config.json"
    shutil.copytree(tmp_path / "mine", config.parent)
    config.write_text(config.read_text() + "\n")
    assert only(read_contestant(str(config.parent))).name not in (name, "mine")


def test_weights_in_either_format_are_hashed(tmp_path):
    names = set()
    for file in ("model.safetensors", "pytorch_model.bin"):
        for content in ("one", "other"):
            folder = tmp_path / file / content / "mine"
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            (folder / file).write_text(content)
            names.add(only(read_contestant(str(folder))).name)
    assert len(names) == 4


def test_hub_ids(run):
    member = only(read_contestant("google/gemma-2-9b-it", run))
    assert member.source == "google/gemma-2-9b-it"
    assert member.name.startswith("google-gemma-2-9b-it-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("round_007", r"no policy round_007 .*has start, round_000, round_001"),
        ("runs/none/exports/round_000", "there is no policy 'runs/none/exports/round_000'"),
        ("./gone", "there is no policy './gone'"),
        ("stat", "there is no policy 'stat'"),
        ("gone.json", r"no mixture gone\.json"),
    ],
)
def test_nobody_is_called_that(run, text, message):
    with pytest.raises(ConfigError, match=message):
        read_contestant(text, run)


def test_a_folder_without_a_policy_and_a_run_without_a_start(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no config\.json"):
        read_contestant(str(tmp_path / "empty"), run)
    (run / "run.json").write_text(json.dumps({}))
    (run / "run.json").unlink()
    with pytest.raises(ConfigError, match="does not say what the run started from"):
        read_contestant("start", run)
    assert only(read_contestant("start", run, start="owner/model")).source == "owner/model"
