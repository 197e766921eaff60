import hashlib

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.chunks import find_chunk, list_chunks, read_chunk, write_chunk

ROWS = [{"prompt_id": f"p{i}", "token_ids": [[i, 1], [2]]} for i in range(5)]


def test_the_name_is_the_number_and_the_hash_of_the_bytes(tmp_path):
    path = write_chunk(tmp_path, 3, ROWS)
    assert path.name == f"00003-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.parquet"
    assert read_chunk(path).to_pylist() == ROWS
    assert find_chunk(tmp_path, 3) == path
    assert find_chunk(tmp_path, 2) is None


def test_chunks_are_listed_in_order_and_other_files_are_left_alone(tmp_path):
    written = {i: write_chunk(tmp_path, i, [{"i": i}]) for i in (100_000, 7, 0)}
    (tmp_path / "notes.parquet").write_bytes(b"")
    assert list_chunks(tmp_path) == written
    assert list(list_chunks(tmp_path)) == [0, 7, 100_000]
    assert list_chunks(tmp_path / "nowhere") == {}


def test_writing_the_same_chunk_again_changes_nothing(tmp_path):
    first = write_chunk(tmp_path, 0, ROWS)
    assert write_chunk(tmp_path, 0, pa.Table.from_pylist(ROWS)) == first
    assert [p.name for p in tmp_path.iterdir()] == [first.name]


def test_other_data_for_a_finished_chunk_is_refused(tmp_path):
    first = write_chunk(tmp_path, 0, ROWS)
    with pytest.raises(RunFolderError, match="holds other data"):
        write_chunk(tmp_path, 0, ROWS[:2])
    assert list(tmp_path.iterdir()) == [first]


def test_two_files_for_one_number_are_both_named(tmp_path):
    first = write_chunk(tmp_path / "a", 0, ROWS)
    second = write_chunk(tmp_path / "b", 0, ROWS[:2])
    second.rename(first.parent / second.name)
    with pytest.raises(RunFolderError) as error:
        find_chunk(first.parent, 0)
    assert first.name in str(error.value)
    assert second.name in str(error.value)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_every_changed_byte_and_every_cut_is_found(tmp_path_factory, data):
    path = write_chunk(tmp_path_factory.mktemp("chunk"), 0, ROWS)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
    path.write_bytes(data.draw(st.sampled_from([flipped, whole[:at], whole + b"\0"])))
    with pytest.raises(RunFolderError, match=rf"{path.name}: is damaged.*delete exactly this file"):
        read_chunk(path)


def test_a_renamed_chunk_is_not_trusted(tmp_path):
    path = write_chunk(tmp_path, 0, ROWS).rename(tmp_path / "00000-copy.parquet")
    with pytest.raises(RunFolderError, match="not named as a chunk"):
        read_chunk(path)


def test_a_vanished_chunk_is_named(tmp_path):
    path = write_chunk(tmp_path, 0, ROWS)
    path.unlink()
    with pytest.raises(RunFolderError, match="is missing"):
        read_chunk(path)
