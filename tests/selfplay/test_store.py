import pyarrow as pa
import pytest

from sppo_lightning.errors import RunFolderError
from sppo_lightning.selfplay.store import RoundFolder

PROMPTS = pa.table({"prompt_id": ["a", "b"]})
ROWS = pa.table({"x": [1, 2, 3]})


@pytest.fixture
def folder(tmp_path) -> RoundFolder:
    """A committed round."""
    folder = RoundFolder(tmp_path / "round_000")
    folder.begin({"num_chunks": 2}, PROMPTS)
    for index in range(2):
        folder.write_chunk("preferences/Judge/self", index, ROWS.slice(index))
    folder.write_table("targets", ROWS)
    folder.commit(round_index=0, global_step=7, policy="start", metrics={"round/x": 0.5})
    return folder


def test_a_round_keeps_what_it_was_begun_with(tmp_path):
    folder = RoundFolder(tmp_path / "round_000")
    assert not folder.exists
    folder.begin({"seed": 1}, PROMPTS)
    folder.begin({"seed": 2}, PROMPTS.slice(1))
    assert folder.exists
    assert not folder.is_committed
    assert folder.settings == {"seed": 1}
    assert folder.read_prompts() == PROMPTS


def test_the_manifest_names_every_file_and_proves_it(folder):
    manifest = folder.verify()
    assert folder.is_committed
    assert {name: entry["rows"] for name, entry in manifest["files"].items() if "self" not in name} == {
        "prompts.parquet": 2,
        "targets.parquet": 3,
    }
    assert sorted(entry["rows"] for name, entry in manifest["files"].items() if "self" in name) == [2, 3]
    assert (manifest["round"], manifest["global_step"], manifest["policy"]) == (0, 7, "start")
    assert manifest["settings"] == {"num_chunks": 2}
    assert manifest["metrics"] == {"round/x": 0.5}


def test_every_listed_file_is_checked(folder):
    for name in folder.manifest["files"]:
        path = folder.path / name
        content = path.read_bytes()
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        with pytest.raises(RunFolderError, match=f"{path.name} is damaged"):
            folder.verify()
        path.unlink()
        with pytest.raises(RunFolderError, match=f"{path.name} is missing"):
            folder.verify()
        path.write_bytes(content)
    folder.verify()


def test_a_committed_round_is_read_only(folder):
    with pytest.raises(AssertionError, match="read-only"):
        folder.write_table("targets", ROWS)
    with pytest.raises(AssertionError, match="read-only"):
        folder.write_chunk("candidates", 0, ROWS)
    folder.begin({"num_chunks": 3}, PROMPTS.slice(1))
    folder.verify()


def test_a_stage_is_its_chunks_in_order(folder):
    assert folder.read_stage("preferences/Judge/self", 2)["x"].to_pylist() == [1, 2, 3, 2, 3]
    assert folder.has_chunk("preferences/Judge/self", 1)
    assert not folder.has_chunk("preferences/Judge/self", 2)
    with pytest.raises(RunFolderError, match="chunk 00002 is missing"):
        folder.read_stage("preferences/Judge/self", 3)


def test_a_round_whose_record_was_lost_is_not_begun_anew(tmp_path):
    folder = RoundFolder(tmp_path / "round_000")
    folder.begin({}, PROMPTS)
    folder.write_chunk("candidates", 0, ROWS)
    (folder.path / "round.json").unlink()
    with pytest.raises(RunFolderError, match=r"round\.json is missing"):
        folder.begin({}, PROMPTS)


def test_imported_verdicts_take_the_oracle_s_place(folder):
    assert folder.verdicts("Judge") == "preferences/Judge"
    (folder.path / "preferences" / "imported").mkdir()
    assert folder.verdicts("Judge") == "preferences/imported"
