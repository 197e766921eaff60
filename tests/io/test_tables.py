import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.tables import parquet_bytes, read_table, write_table

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt_id": st.text(st.characters(exclude_categories=["Cs"])),
            "token_ids": st.lists(st.lists(st.integers(0, 2**31), max_size=4), max_size=3),
            "logp": st.floats(allow_nan=False),
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        }
    ),
    max_size=8,
)
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("token_ids", pa.list_(pa.list_(pa.int64()))),
        ("logp", pa.float64()),
        ("text", pa.string()),
    ]
)


@given(ROWS)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    sha256 = write_table(path, rows, SCHEMA)
    assert read_table(path, sha256).to_pylist() == rows


@given(ROWS, st.integers(0, 8))
@settings(max_examples=50, deadline=None)
def test_bytes_depend_on_the_data_alone(rows, cut):
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    glued = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    sliced = pa.concat_tables([table, table]).combine_chunks().slice(len(rows))
    noted = table.replace_schema_metadata({"written by": "someone"})
    assert {parquet_bytes(t) for t in (glued, sliced, noted)} == {parquet_bytes(rows, SCHEMA)}


def test_a_table_written_again_from_its_file_has_the_same_hash(tmp_path):
    sha256 = write_table(tmp_path / "a.parquet", [{"ids": [[1, 2], []], "p": 0.5}])
    assert write_table(tmp_path / "b.parquet", read_table(tmp_path / "a.parquet")) == sha256


def test_pandas_opens_it(tmp_path):
    write_table(tmp_path / "t.parquet", [{"prompt_id": "a", "win_rate": math.nan}])
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert frame.prompt_id[0] == "a"
    assert np.isnan(frame.win_rate[0])


def test_a_column_that_only_a_later_row_has_is_refused_not_dropped():
    with pytest.raises(ValueError, match="row 1 has the columns"):
        parquet_bytes([{"a": 1}, {"a": 2, "b": 3}])


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:]])
def test_damage_is_an_error_that_names_the_file(tmp_path, damage):
    path = tmp_path / "targets.parquet"
    sha256 = write_table(path, [{"a": i, "text": "x" * i} for i in range(20)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunFolderError, match=r"targets\.parquet: is damaged"):
        read_table(path, sha256)


def test_without_a_hash_what_is_not_parquet_is_still_an_error(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(RunFolderError, match="not parquet"):
        read_table(tmp_path / "t.parquet")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"t\.parquet: is missing"):
        read_table(tmp_path / "t.parquet", "0" * 64)
