import csv
import datetime
import decimal
import io
import json
import random
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sppo_lightning.errors import DataError
from sppo_lightning.io import assets
from sppo_lightning.io.prompts import read_prompts
from sppo_lightning.io.row_files import READERS

HAIKU = {"role": "user", "content": "Write a haiku."}


def user_texts(prompts) -> list[str]:
    return [prompt.text for prompt in prompts]


def write_lines(path, *rows) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


# --- what a row may look like -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ("Write a haiku.", [HAIKU]),
        ({"prompt": "Write a haiku."}, [HAIKU]),
        ({"prompt": [HAIKU]}, [HAIKU]),
        ({"messages": [HAIKU]}, [HAIKU]),
        ({"messages": [HAIKU, {"role": "assistant", "content": "No."}]}, [HAIKU]),
        ({"messages": [HAIKU, {"role": "assistant", "content": ""}]}, [HAIKU]),
        ({"prompt": None, "messages": [HAIKU]}, [HAIKU]),
        ({"instruction": "Write a haiku."}, [HAIKU]),
        ({"instruction": "Write a haiku.", "input": ""}, [HAIKU]),
        ({"instruction": "Translate.", "input": "Guten Tag"}, [{"role": "user", "content": "Translate.\n\nGuten Tag"}]),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, HAIKU]},
            [{"role": "system", "content": "Be brief."}, HAIKU],
        ),
        (
            {"prompt": [HAIKU, {"role": "assistant", "content": "No."}, HAIKU]},
            [HAIKU, {"role": "assistant", "content": "No."}, HAIKU],
        ),
        ({"prompt": [HAIKU | {"name": "Ann", "tool_calls": None}]}, [HAIKU]),
    ],
)
def test_the_conversation_in_a_row(row, turns):
    (prompt,) = read_prompts([row])
    assert list(prompt.messages) == turns


def test_prompt_goes_before_messages_and_what_is_not_read_is_metadata():
    (prompt,) = read_prompts([{"prompt": "a", "messages": [HAIKU], "id": 7, "answer": "42", "none": None}])
    assert prompt.text == "a"
    assert prompt.prompt_id == "7"
    assert prompt.metadata == {"messages": [HAIKU], "answer": "42"}
    (prompt,) = read_prompts([{"prompt": "a", "prompt_id": "x", "id": 7}])
    assert (prompt.prompt_id, prompt.metadata) == ("x", {"id": 7})


def test_metadata_can_always_be_stored_as_json():
    date, price = datetime.date(2024, 5, 1), decimal.Decimal("1.50")
    (prompt,) = read_prompts([{"prompt": "a", "date": date, "price": [price], "scores": {"a": (1, 2.5, True)}}])
    assert prompt.metadata == {"date": "2024-05-01", "price": ["1.50"], "scores": {"a": [1, 2.5, True]}}
    assert json.loads(json.dumps(prompt.metadata)) == prompt.metadata


# --- ids ----------------------------------------------------------------------------------------------------------


def test_an_id_made_from_the_content_does_not_depend_on_place_file_or_metadata(tmp_path):
    (alone,) = read_prompts(["b"])
    (_, second) = read_prompts(
        [{"prompt": "a", "id": "first"}, {"messages": [{"role": "user", "content": "b"}], "n": 3}]
    )
    (tmp_path / "p.txt").write_text("b\n")
    (in_file,) = read_prompts(tmp_path / "p.txt")
    assert alone.prompt_id == second.prompt_id == in_file.prompt_id
    assert alone.prompt_id != read_prompts(["b "])[0].prompt_id
    # Ids stand in run folders: a change of how they are made would orphan those. SHA-256 of '[["user", "b"]]'.
    assert alone.prompt_id == "c85581aeea064091"


def test_repeated_prompts_without_ids_are_dropped_and_counted():
    with pytest.warns(UserWarning, match="2 prompts without an id .* the first is row index 2, a copy of row index 0"):
        prompts = read_prompts(["a", "b", "a", {"prompt": "a", "n": 1}])
    assert user_texts(prompts) == ["a", "b"]


def test_repeated_prompts_with_ids_of_their_own_are_kept():
    assert user_texts(read_prompts([{"prompt": "a", "id": 1}, {"prompt": "a", "id": 2}])) == ["a", "a"]


# --- files --------------------------------------------------------------------------------------------------------


def test_what_separates_lines_for_some_programs_is_data(tmp_path):
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1eh\ri"
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": odd}, ensure_ascii=False) + "\n" + json.dumps({"prompt": "next"}), newline="")
    assert user_texts(read_prompts(path)) == [odd, "next"]
    (tmp_path / "p.txt").write_text("a\u2028b\x0bc\nnext", newline="")
    assert user_texts(read_prompts(tmp_path / "p.txt")) == ["a\u2028b\x0bc", "next"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt", ".csv"])
def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_accepted(tmp_path, suffix):
    content = {
        ".jsonl": b'\r\n{"prompt": "caf\xc3\xa9"}\r\n\r\n"b"',
        ".json": b'[{"prompt": "caf\xc3\xa9"},\r\n "b"]\r\n',
        ".txt": b"\r\ncaf\xc3\xa9\r\n\r\nb",
        ".csv": b"prompt\r\ncaf\xc3\xa9\r\n\r\nb",
    }[suffix]
    path = tmp_path / f"p{suffix.upper()}"
    path.write_bytes(b"\xef\xbb\xbf" + content)
    assert user_texts(read_prompts(path)) == ["caf\u00e9", "b"]


def test_csv_columns_and_quoted_line_breaks(tmp_path):
    with (tmp_path / "p.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "instruction", "input", "level"], ["x", 'Say "hi",\nplease', "to Ann", "3"]])
    (prompt,) = read_prompts(tmp_path / "p.csv")
    assert (prompt.prompt_id, prompt.text) == ("x", 'Say "hi",\nplease\n\nto Ann')
    assert prompt.metadata == {"level": "3"}


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    write_lines(tmp_path / "b.jsonl", "third")
    write_lines(tmp_path / "a.jsonl", "first", "second")
    pq.write_table(pa.table({"prompt": ["fourth"]}), tmp_path / "c.parquet")
    (tmp_path / "README.md").write_text("not a prompt")
    (tmp_path / "p.pt").write_text("not a prompt")
    (tmp_path / "old").mkdir()
    write_lines(tmp_path / "old" / "a.jsonl", "not read")
    assert user_texts(read_prompts(str(tmp_path))) == ["first", "second", "third", "fourth"]


def test_links_to_files_and_folders_are_followed(tmp_path):
    (tmp_path / "data").mkdir()
    write_lines(tmp_path / "data" / "a.jsonl", "a")
    (tmp_path / "file.jsonl").symlink_to(tmp_path / "data" / "a.jsonl")
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    assert user_texts(read_prompts(tmp_path / "file.jsonl")) == user_texts(read_prompts(tmp_path / "folder")) == ["a"]


def test_a_long_prompt_is_no_error(tmp_path):
    text = "word " * 200_000
    assert user_texts(read_prompts(write_lines(tmp_path / "p.jsonl", text))) == [text]


# --- the package and the hub --------------------------------------------------------------------------------------


def test_files_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "_ROOT", tmp_path)
    (tmp_path / "quickstart").mkdir()
    path = write_lines(tmp_path / "quickstart" / "prompts.jsonl", "a")
    assert assets.resolve("package:quickstart/prompts.jsonl") == path
    assert assets.resolve("org/model") == "org/model"
    assert user_texts(read_prompts("package:quickstart/prompts.jsonl")) == ["a"]
    with pytest.raises(DataError, match=r"it has quickstart/prompts\.jsonl"):
        assets.resolve("package:quickstart/prompt.jsonl")


@pytest.mark.parametrize("name", ["../x", "quickstart/../../x", "/etc/passwd", "link/x", "..", "a/../../assets2/x"])
def test_a_package_name_cannot_lead_out_of_the_assets(tmp_path, monkeypatch, name):
    root, outside = tmp_path / "assets", tmp_path / "assets2"
    for folder in (root, outside):
        folder.mkdir()
    for path in (outside / "x", tmp_path / "x"):
        path.write_text("secret")
    (root / "link").symlink_to(outside)
    monkeypatch.setattr(assets, "_ROOT", root)
    with pytest.raises(DataError, match="leads out of the package"):
        assets.resolve(f"package:{name}")


def fake_datasets(monkeypatch, load_dataset) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_dataset_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    fake_datasets(monkeypatch, lambda name, split: asked.append((name, split)) or [{"prompt": "a", "source": "x"}])
    (prompt,) = read_prompts("owner/name-1.0")
    assert asked == [("owner/name-1.0", "train")]
    assert (prompt.text, prompt.metadata) == ("a", {"source": "x"})


def test_a_path_that_exists_is_never_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_datasets(monkeypatch, lambda name, split: pytest.fail("asked the hub"))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    write_lines(tmp_path / "owner" / "name" / "p.jsonl", "a")
    assert user_texts(read_prompts("owner/name")) == ["a"]
    for missing in ("owner/prompts.jsonl", "name", "a/b/c", "./owner/nam"):
        with pytest.raises(DataError, match="no such file or folder"):
            read_prompts(missing)


def test_what_goes_wrong_on_the_hub_names_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def unreachable(name, split):
        raise ConnectionError("the hub does not answer")

    fake_datasets(monkeypatch, unreachable)
    with pytest.raises(DataError, match=r"owner/name: .*the hub does not answer"):
        read_prompts("owner/name")
    fake_datasets(monkeypatch, lambda name, split: [])
    with pytest.raises(DataError, match=r"owner/name: .*no prompts"):
        read_prompts("owner/name")
    fake_datasets(monkeypatch, lambda name, split: [{"question": "a"}])
    with pytest.raises(DataError, match="owner/name, split train, row index 0: has no field"):
        read_prompts("owner/name")


def test_without_the_datasets_package_the_line_to_install_it_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prompts").mkdir()
    with pytest.raises(DataError, match=r"did you mean data/prompts\?.*pip install \"sppo-lightning\[hub\]\""):
        read_prompts("data/promts")


# --- any bytes, any rows ------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
TURNS = st.lists(TEXT, min_size=1, max_size=5).map(lambda texts: texts[: len(texts) - 1 + len(texts) % 2])
NAMES = st.sampled_from(["prompt", "messages", "instruction", "input", "id", "prompt_id", "role", "content", "extra"])
ROW = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["user", "assistant"]),
    lambda inner: st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=10,
)


def survives(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        prompts = read_prompts(path)
    except DataError as error:
        if str(path) not in str(error):
            pytest.fail(f"does not name the file: {error}")
        return
    assert prompts
    for prompt in prompts:
        assert prompt.text.strip()
        json.dumps([prompt.prompt_id, prompt.messages, prompt.metadata], ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@given(st.binary(max_size=300), st.sampled_from(sorted(READERS)))
@example(b'{"prompt": "a"}\n' * 2, ".jsonl")
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore:.*repeat the messages")
def test_random_bytes_are_prompts_or_a_data_error(folder, content, suffix):
    survives(folder / f"p{suffix}", content)


@given(st.lists(ROW, min_size=1, max_size=3), st.sampled_from([".jsonl", ".json"]))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore:.*repeat the messages")
def test_random_rows_are_prompts_or_a_data_error(folder, rows, suffix):
    text = json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))
    survives(folder / f"p{suffix}", text.encode())


def valid_file(suffix: str) -> bytes:
    rows = [{"prompt": f"text {i} \u00e9\u2028", "id": i, "extra": "x" * i} for i in range(20)]
    if suffix == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    if suffix == ".csv":
        return ("prompt,id\n" + "".join(f"{row['prompt']},{row['id']}\n" for row in rows)).encode()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return (f"[{','.join(lines)}]" if suffix == ".json" else "\n".join(lines)).encode()


@pytest.mark.parametrize("suffix", sorted(READERS))
@pytest.mark.filterwarnings("ignore:.*repeat the messages")
def test_a_damaged_file_is_prompts_or_a_data_error(folder, suffix):
    whole, rng = valid_file(suffix), random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            kind = rng.randrange(3)
            if kind == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del content[at : at + rng.randint(1, 30)]
            else:
                content[at:at] = rng.randbytes(rng.randint(1, 5))
        survives(folder / f"damaged{suffix}", bytes(content))


@given(st.lists(TURNS, min_size=1, max_size=6), st.sampled_from([".jsonl", ".json", ".parquet"]))
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read(folder, conversations, suffix):
    rows = [
        {
            "prompt": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)],
            "prompt_id": f"p{number}",
            "extra": number,
        }
        for number, turns in enumerate(conversations)
    ]
    path = folder / f"written{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text(f"[{','.join(lines)}]" if suffix == ".json" else "\n".join(lines), newline="", encoding="utf-8")
    prompts = read_prompts(path)
    assert [list(prompt.messages) for prompt in prompts] == [row["prompt"] for row in rows]
    assert [prompt.prompt_id for prompt in prompts] == [row["prompt_id"] for row in rows]
    assert [prompt.metadata for prompt in prompts] == [{"extra": row["extra"]} for row in rows]
