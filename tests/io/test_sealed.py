"""JSON files that prove their own content."""

import json

import pytest

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.sealed import CHECKSUM, read_sealed_json, write_sealed_json

VALUE = {"step": 7, "share": 0.1, "nan": float("inf"), "names": ["a", "\u00e9"], "inner": {"none": None}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.json"
    write_sealed_json(path, VALUE)
    return path


def test_what_was_written_is_read(path):
    assert read_sealed_json(path) == VALUE
    assert list(json.loads(path.read_text())) == [*VALUE, CHECKSUM]


def test_every_flipped_bit_is_told_or_harmless(path):
    content = path.read_bytes()
    told = 0
    for position in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                # An escaped letter may be spelt with E or e.
                assert read_sealed_json(path) == VALUE
            except RunFolderError as error:
                told += str(error).startswith(f"{path}: is damaged")
    assert told >= 8 * len(content) - 3


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '"text"', '{"step": 7}'])
def test_what_carries_no_checksum_is_refused(path, content):
    path.write_text(content)
    with pytest.raises(RunFolderError, match=r"run\.json: is damaged"):
        read_sealed_json(path)


def test_an_edit_is_accepted_with_the_checksum_that_the_error_names(path):
    edited = json.loads(path.read_text()) | {"step": 8}
    path.write_text(json.dumps(edited))
    with pytest.raises(RunFolderError) as refusal:
        read_sealed_json(path)
    named = str(refusal.value).split()[-1]
    path.write_text(json.dumps(edited | {CHECKSUM: named}))
    assert read_sealed_json(path) == VALUE | {"step": 8}
