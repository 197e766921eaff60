import math
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.files import (
    TEMPORARY_SUFFIX,
    atomic_folder,
    atomic_write,
    read_json,
    sha256_of,
    sweep_temporaries,
    write_json_atomic,
)


@contextmanager
def largest_file(num_bytes: int):
    """Makes the kernel refuse to write more, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "down" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.endswith(TEMPORARY_SUFFIX)
    assert path.read_text() == "new"
    assert everything_below(tmp_path) == ["deep", "deep/down", "deep/down/a.txt"]


def test_file_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_block_leaves_what_was_there_and_nothing_else(tmp_path, interruption):
    (tmp_path / "a.txt").write_text("old")

    def write_half():
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        write_half()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert everything_below(tmp_path) == ["a.txt"]


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with largest_file(1000), pytest.raises(RunFolderError, match=r"a\.json: cannot be written.*Make room"):
        write_json_atomic(tmp_path / "a.json", ["x"] * 1000)
    assert read_json(tmp_path / "a.json") == [1]
    assert everything_below(tmp_path) == ["a.json"]


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "rounds").write_text("")
    with pytest.raises(RunFolderError, match=r"manifest\.json: cannot be written"):
        write_json_atomic(tmp_path / "rounds" / "manifest.json", {})


def test_the_longest_name_a_file_system_takes_can_be_written(tmp_path):
    write_json_atomic(tmp_path / f"{'n' * 250}.json", {})
    assert read_json(tmp_path / f"{'n' * 250}.json") == {}


def test_a_folder_appears_whole(tmp_path):
    with atomic_folder(tmp_path / "exports" / "round_000", "export") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "config.json").write_text("{}")
        assert not (tmp_path / "exports" / "round_000").exists()
    assert everything_below(tmp_path / "exports") == ["round_000", "round_000/sub", "round_000/sub/config.json"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    def write_half():
        with atomic_folder(tmp_path / "export") as temporary:
            (temporary / "half").write_text("")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_half()
    assert everything_below(tmp_path) == []


def test_a_finished_folder_is_never_overwritten(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(RunFolderError, match="exists already"), atomic_folder(tmp_path / "export"):
        pass
    assert everything_below(tmp_path) == ["export"]


def test_sweeping_removes_the_unfinished_and_only_that(tmp_path):
    (tmp_path / "rounds").mkdir()
    for name in ("keep.json", f".a.0123{TEMPORARY_SUFFIX}", f"rounds/.b.4567{TEMPORARY_SUFFIX}"):
        (tmp_path / name).write_text("x")
    folder = tmp_path / f".export.89ab{TEMPORARY_SUFFIX}"
    folder.mkdir()
    (folder / "config.json").write_text("x")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / f"mine{TEMPORARY_SUFFIX}").write_text("x")
    (tmp_path / "link").symlink_to(outside)
    assert len(sweep_temporaries(tmp_path)) == 3
    assert everything_below(tmp_path) == ["keep.json", "link", "rounds"]
    assert len(list(outside.iterdir())) == 1


def test_json_comes_back_as_it_was(tmp_path):
    value = {"round": 3, "text": "caf\u00e9 \u2028 \U0001f600 \ud800", "nested": [{"p": 0.1}, None, True]}
    write_json_atomic(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    write_json_atomic(tmp_path / "a.json", {"win_rate": math.nan})
    assert math.isnan(read_json(tmp_path / "a.json")["win_rate"])


@pytest.mark.parametrize(
    "content", [b"", b'{"round": 3', b'{"round": 3}}', b"\x00" * 20, b"\xff\xfe\xfd", b"[" * 100_000]
)
def test_damaged_json_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"manifest\.json: is damaged"):
        read_json(tmp_path / "manifest.json")


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"a\.json: is missing"):
        read_json(tmp_path / "a.json")
    with pytest.raises(RunFolderError, match="cannot be read"):
        sha256_of(tmp_path)


def test_sha256_of_a_known_text(tmp_path):
    # FIPS 180-2, example B.1.
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_relative_path_without_a_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json_atomic("a.json", 1)
    assert everything_below(tmp_path) == ["a.json"]
