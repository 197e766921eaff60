"""mixture.json: moved with its folder, and refused in words when it is no mixture."""

import json
import shutil

import pytest

from sppo_lightning.errors import DataError, RunFolderError
from sppo_lightning.evaluation.mixture import Mixture
from sppo_lightning.io.assets import resolve


@pytest.fixture
def run(tmp_path):
    for name in ("round_000", "round_001"):
        (tmp_path / "run" / "exports" / name).mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    return tmp_path / "run"


def write(run, content):
    path = run / "exports" / "mixture.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_uniform_weights():
    assert Mixture.uniform(["a/b", "c/d", "a/b"]).members == {"a/b": 0.5, "c/d": 0.5}


def test_what_is_written_is_read_and_moves_with_its_folder(run, tmp_path):
    exports = run / "exports"
    mixture = Mixture(
        members={
            "package:quickstart/policy": 0.1,
            str(exports / "round_000"): 0.2,
            str(tmp_path / "outside"): 0.3,
            "owner/model": 0.4,
        },
        weighting="payoff",
        reason="confirmed",
    )
    mixture.write(exports / "mixture.json")
    stored = json.loads((exports / "mixture.json").read_text())
    assert list(stored["members"]) == ["package:quickstart/policy", "./round_000", "../../outside", "owner/model"]
    assert Mixture.read(exports / "mixture.json") == mixture

    (tmp_path / "elsewhere").mkdir()
    shutil.move(run, tmp_path / "moved")
    moved = Mixture.read(tmp_path / "moved" / "exports" / "mixture.json")
    assert str(tmp_path / "moved" / "exports" / "round_000") in moved.members
    assert (moved.weighting, moved.reason) == ("payoff", "confirmed")


def test_a_list_means_equal_weights(run):
    path = write(run, {"members": ["./round_000", "round_001"]})
    assert Mixture.read(path).members == {str(run / "exports" / f"round_00{i}"): 0.5 for i in range(2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"members": {"./round_000": 0.5, "./round_001": 0.4}}, r"add up to 1, these add up to 0\.9"),
        ({"members": {"./round_000": -0.5, "./round_001": 1.5}}, r"round_000 has -0\.5"),
        ({"members": {"./round_000": float("nan")}}, "has nan"),
        ({"members": {"./round_007": 1.0}}, r"the folder of '\./round_007' is missing"),
        (
            {"members": {"./round_000": 0.5, "./round_000/": 0.5}},
            r"'\./round_000' and '\./round_000/' are the same folder",
        ),
        ({"members": ["./round_000", "round_000"]}, r"'\./round_000' and 'round_000' are the same folder"),
        ({"members": ["./round_000", "./round_000"]}, r"lists '\./round_000' twice"),
        (
            {"members": {"package:quickstart/policy": 0.5, resolve("package:quickstart/policy"): 0.5}},
            "'package:quickstart/policy' and '/.* are the same folder",
        ),
        ({"members": {"some/where/else": 1.0}}, "the folder of 'some/where/else' is missing"),
        ({"members": {"./round_000": "1"}}, '"members" must be an object'),
        ({"members": {"./round_000": True}}, '"members" must be an object'),
        ({"members": {}}, '"members" must be an object'),
        ({"members": ["./round_000", 3]}, '"members" must be an object'),
        ({"weights": {"./round_000": 1.0}}, 'with the key "members"'),
        ({"members": ["./round_000"], "wieghting": "uniform"}, "does not know the key 'wieghting'"),
        (["./round_000"], 'with the key "members"'),
    ],
)
def test_what_is_no_mixture_is_refused(run, content, message):
    path = write(run, content)
    with pytest.raises(DataError, match=message) as refusal:
        Mixture.read(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert str(refusal.value).count(str(path)) == 1


def test_a_damaged_or_missing_file_is_named(run):
    with pytest.raises(RunFolderError, match=r"mixture\.json"):
        Mixture.read(write(run, '{"members": '))
    with pytest.raises(RunFolderError, match=r"other\.json"):
        Mixture.read(run / "other.json")


def test_no_members():
    with pytest.raises(DataError, match="at least one policy"):
        Mixture(members={})
