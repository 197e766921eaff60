"""Malformed prompt sources: each is a DataError that says where and what, never another exception."""

import io
import json
import os
import pickle
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sppo_lightning.errors import DataError
from sppo_lightning.io.prompts import read_prompts

GOOD = b'{"prompt": "Write a haiku."}\n'


def parquet(**columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def row(**fields) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def messages(*turns) -> bytes:
    return row(messages=[{"role": role, "content": content} for role, content in turns])


class RunsCode:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


TWO_PARQUET_ROWS = parquet(prompt=["a", "b"])
# One text of the column is not UTF-8: Arrow does not look at this when it writes.
NOT_UTF8_PARQUET = parquet(prompt=pa.Array.from_buffers(pa.string(), 1, [None, *pa.array([b"\xff\xfe"]).buffers()[1:]]))
DEEP = "[" * 200 + "]" * 200

# file name, content, what the message must say
CASES = [
    # --- the file
    ("empty.jsonl", b"", r"empty\.jsonl: holds no prompts"),
    ("blank.jsonl", b"\n  \n\t\r\n\n", r"blank\.jsonl: holds no prompts"),
    ("bom.jsonl", b"\xef\xbb\xbf", r"bom\.jsonl: holds no prompts"),
    ("empty.json", b"", r"empty\.json: holds no prompts"),
    ("list.json", b"[]", r"list\.json: holds no prompts"),
    ("empty.txt", b"\n\n", r"empty\.txt: holds no prompts"),
    ("empty.csv", b"", r"empty\.csv: holds no prompts"),
    ("header.csv", b"prompt,id\n", r"header\.csv: holds no prompts"),
    ("empty.parquet", b"", r"empty\.parquet: is not a whole parquet file"),
    ("rows.parquet", parquet(prompt=pa.array([], pa.string())), r"rows\.parquet: holds no prompts"),
    ("p.pkl", pickle.dumps(RunsCode()), r"p\.pkl: a \.pkl file can run code"),
    ("p.pt", pickle.dumps(RunsCode()), r"p\.pt: a \.pt file can run code"),
    ("p.npy", pickle.dumps(RunsCode()), r"p\.npy: a \.npy file can run code"),
    ("pickle.jsonl", pickle.dumps(RunsCode()), r"pickle\.jsonl, line 1, byte 1: is not UTF-8"),
    ("p.xlsx", b"PK", r"p\.xlsx: the suffix '\.xlsx' is not one of \.jsonl, \.json, \.txt, \.csv, \.parquet"),
    ("prompts", GOOD, r"prompts: the suffix '' is not one of"),
    # --- bytes
    ("utf8.jsonl", GOOD + b'{"prompt": "caf\xe9"}\n', r"utf8\.jsonl, line 2, byte 16: is not UTF-8 \(0xe9"),
    ("bom8.jsonl", b'\xef\xbb\xbf{"prompt": "\xff"}', r"line 1, byte 16: is not UTF-8 \(0xff"),
    ("utf16.jsonl", GOOD.decode().encode("utf-16"), r"line 1, byte 1: is not UTF-8 \(0xff"),
    ("utf8.txt", b"one\ntwo\nthr\x80ee\n", r"utf8\.txt, line 3, byte 4: is not UTF-8"),
    ("utf8.json", b'["one",\n"tw\xc3"]', r"utf8\.json, line 2, byte 4: is not UTF-8"),
    ("utf8.csv", b"prompt\na\n\xa0\n", r"utf8\.csv, line 3, byte 1: is not UTF-8"),
    ("nul.jsonl", GOOD + b'{"prompt": "a\0b"}', r"nul\.jsonl, line 2, byte 14: a NUL byte"),
    ("zeros.txt", b"\0" * 64, r"zeros\.txt, line 1, byte 1: a NUL byte"),
    ("nul.csv", b"prompt\na\n\0\n", r"nul\.csv, line 3, byte 1: a NUL byte"),
    ("long.jsonl", GOOD + b'{"prompt": "' + b"x" * 10_000_000 + b'"}', r"long\.jsonl, line 2: is longer than 8 MB"),
    ("long.txt", b"x" * 10_000_000, r"long\.txt, line 1: is longer than 8 MB"),
    # --- JSON
    ("cut.jsonl", GOOD * 3 + b'{"prompt": "Wri', r"cut\.jsonl, line 4: is not JSON: Unterminated string.*column 12"),
    ("comma.jsonl", b'{"prompt": "a",}\n', r"comma\.jsonl, line 1: is not JSON"),
    ("quotes.jsonl", b"{'prompt': 'a'}\n", r"quotes\.jsonl, line 1: is not JSON"),
    ("two.jsonl", b'{"prompt": "a"} {"prompt": "b"}\n', r"two\.jsonl, line 1: is not JSON: Extra data \(column 17\)$"),
    ("plain.jsonl", b"Write a haiku.\n", r"plain\.jsonl, line 1: is not JSON"),
    ("twice.jsonl", b'{"prompt": "a", "prompt": "b"}\n', r"twice\.jsonl, line 1: .*stands twice.*'prompt'"),
    ("deep.jsonl", b'{"prompt": "a", "m": ' + DEEP.encode() + b"}", r"field 'm': is nested deeper than 64"),
    ("deeper.jsonl", b"[" * 100_000, r"deeper\.jsonl, line 1: is not JSON that can be read"),
    ("digits.jsonl", b'{"prompt": "a", "n": ' + b"9" * 10_000 + b"}", r"digits\.jsonl, line 1: is not JSON that can"),
    ("lines.json", GOOD + GOOD, r"lines\.json: is not JSON: Extra data \(line 2 column 1\); is it JSON Lines"),
    ("object.json", b'{"prompts": ["a"]}', r"object\.json: must hold a JSON list of rows, not an object"),
    ("string.json", b'"a prompt"', r"string\.json: must hold a JSON list of rows, not 'a prompt'"),
    ("cut.json", b'["a",\n"b"', r"cut\.json: is not JSON: .*\(line 2"),
    # --- CSV
    ("ragged.csv", b"prompt,id\na,1\nb\n", r"ragged\.csv, line 3: has 1 fields, the header 2 \(prompt, id\)"),
    ("wide.csv", b"prompt,id\na,1,2\n", r"wide\.csv, line 2: has 3 fields, the header 2"),
    ("columns.csv", b"prompt,prompt\na,b\n", r"columns\.csv, line 1: two columns have one name"),
    ("quote.csv", b'prompt\n"never closed\n', r"quote\.csv, line 2: is not CSV: unexpected end of data"),
    ("field.csv", b"prompt\n" + b"x" * 200_000, r"field\.csv, line 2: is not CSV: field larger"),
    ("blank.csv", b"prompt,id\n,1\n", r"blank\.csv, line 2, field 'prompt': the user's text is empty"),
    (
        "list.csv",
        b'messages\n"[]"\n',
        r"list\.csv, line 2, field 'messages': must be a list of messages, not str '\[\]'",
    ),
    # --- parquet
    ("cut.parquet", TWO_PARQUET_ROWS[:-10], r"cut\.parquet: is not a whole parquet file"),
    ("half.parquet", TWO_PARQUET_ROWS[: len(TWO_PARQUET_ROWS) // 2], r"half\.parquet: is not a whole parquet file"),
    ("text.parquet", GOOD, r"text\.parquet: is not a whole parquet file"),
    (
        "schema.parquet",
        parquet(question=["a"], answer=["b"]),
        r"row index 0: has no field 'prompt'.*'question', 'answer'",
    ),
    (
        "numbers.parquet",
        parquet(prompt=[1, 2]),
        r"row index 0, field 'prompt': must be a string or a list of messages, not int 1",
    ),
    ("null.parquet", parquet(prompt=["a", None]), r"null\.parquet, row index 1: has no field 'prompt'.*none"),
    (
        "struct.parquet",
        parquet(prompt=[{"text": "a"}]),
        r"field 'prompt': must be a string or a list of messages, not dict",
    ),
    ("bytes.parquet", parquet(prompt=["a"], picture=[b"\x89PNG"]), r"field 'picture': holds bytes.*remove the column"),
    ("utf8.parquet", NOT_UTF8_PARQUET, r"utf8\.parquet: a text after row index 0 is not UTF-8"),
    # --- rows
    ("number.jsonl", b"3\n", r"number\.jsonl, line 1: a row must be an object or a string, not int 3"),
    ("null.jsonl", b"null\n", r"null\.jsonl, line 1: a row must be an object or a string, not NoneType"),
    ("list.jsonl", b'[{"prompt": "a"}]\n', r"list\.jsonl, line 1: a row must be an object or a string, not list"),
    ("nested.json", b'[[["a"]]]', r"nested\.json, index 0: a row must be an object or a string, not list"),
    ("missing.jsonl", GOOD + row(question="a", id=3), r"line 2: has no field 'prompt'.*\(.*: 'question', 'id'\)"),
    ("nothing.jsonl", b"{}\n", r"nothing\.jsonl, line 1: has no field .*none"),
    ("null-prompt.jsonl", row(prompt=None), r"line 1: has no field .*none"),
    ("empty-prompt.jsonl", GOOD + row(prompt=""), r"line 2, field 'prompt': the user's text is empty"),
    ("blank-prompt.jsonl", row(prompt=" \n\t\u3000"), r"field 'prompt': the user's text is empty"),
    ("empty-string.jsonl", b'""\n', r"field 'prompt': the user's text is empty"),
    ("number-prompt.jsonl", row(prompt=3.5), r"field 'prompt': must be a string or a list of messages, not float 3\.5"),
    ("bool-prompt.jsonl", row(prompt=True), r"field 'prompt': must be a string or a list of messages, not bool True"),
    (
        "strings.jsonl",
        row(prompt=["a", "b"]),
        r"message index 0: must be an object with 'role' and 'content', not str 'a'",
    ),
    ("nul-escape.jsonl", row(prompt="a\0b"), r"line 1, field 'prompt': the user's text holds a NUL character"),
    (
        "surrogate.jsonl",
        b'{"prompt": "ab\\ud83d"}',
        r"field 'prompt': holds half a surrogate pair \(\\ud83d at char.* 2",
    ),
    ("meta.jsonl", b'{"prompt": "a", "m": ["\\udc00"]}', r"field 'm': holds half a surrogate pair"),
    ("key.jsonl", b'{"prompt": "a", "\\udc00": 1}', r"half a surrogate pair"),
    ("instruction.jsonl", row(instruction=["a"]), r"field 'instruction': the text must be a string, not list"),
    ("input.jsonl", row(instruction="a", input=3), r"field 'input': must be a string, not int 3"),
    # --- messages
    ("none.jsonl", row(messages=[]), r"field 'messages': the turns must be .*got none"),
    ("object.jsonl", row(messages={"role": "user"}), r"field 'messages': must be a list of messages, not dict"),
    ("answer.jsonl", messages(("assistant", "a")), r"the turns must be .*got none"),
    ("system.jsonl", messages(("system", "a")), r"the turns must be .*got system"),
    ("late.jsonl", messages(("user", "a"), ("system", "b")), r"got user, system"),
    ("systems.jsonl", messages(("system", "a"), ("system", "b"), ("user", "c")), r"got system, system, user"),
    ("users.jsonl", messages(("user", "a"), ("user", "b")), r"got user, user"),
    ("first.jsonl", messages(("assistant", "a"), ("user", "b")), r"got assistant, user"),
    (
        "role.jsonl",
        messages(("human", "a")),
        r"message index 0: the role must be one of system, user, assistant, not str 'human'",
    ),
    ("tool.jsonl", messages(("user", "a"), ("tool", "b")), r"message index 1: the role must be one of"),
    ("rolelist.jsonl", row(messages=[{"role": ["user"], "content": "a"}]), r"message index 0: the role must be one of"),
    (
        "sharegpt.jsonl",
        row(messages=[{"from": "human", "value": "a"}]),
        r"message index 0: must be an object with 'role'",
    ),
    (
        "content.jsonl",
        row(messages=[{"role": "user", "content": None}]),
        r"message index 0: the text must be a string, not None",
    ),
    ("parts.jsonl", messages(("user", [{"type": "text"}])), r"message index 0: the text must be a string, not list"),
    (
        "blank.jsonl",
        messages(("user", "a"), ("assistant", " "), ("user", "b")),
        r"message index 1: the assistant's text is empty",
    ),
    ("open.jsonl", row(prompt=[{"role": "assistant", "content": "a"}]), r"field 'prompt': the turns .*got assistant"),
    # --- ids
    (
        "id.jsonl",
        row(prompt="a", id="x") + GOOD + row(prompt="b", id="x"),
        r"line 3: the id 'x' stands already at .*line 1",
    ),
    (
        "ids.jsonl",
        row(prompt="a", id=1) + row(prompt="a", prompt_id="1"),
        r"line 2: the id '1' stands already at .*line 1",
    ),
    ("id-list.jsonl", row(prompt="a", id=["x"]), r"field 'id': an id must be a string or a whole number, not list"),
    ("id-float.jsonl", row(prompt="a", prompt_id=1.0), r"field 'prompt_id': an id must be a string or a whole number"),
    ("id-bool.jsonl", row(prompt="a", id=True), r"field 'id': an id must be a string or a whole number, not bool"),
    ("id-empty.jsonl", row(prompt="a", id=" "), r"field 'id': an id must not be empty"),
    ("id-nul.jsonl", row(prompt="a", id="a\0"), r"field 'id': an id must not be empty or hold a NUL"),
    ("id-csv.csv", b"id,prompt\n7,a\n8,b\n7,c\n", r"id-csv\.csv, line 4: the id '7' stands already at .*line 2"),
]


@pytest.mark.parametrize(("name", "content", "message"), CASES, ids=[case[0] for case in CASES])
def test_a_malformed_file_says_where_and_what(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_prompts(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value).replace(str(path), "")


def test_a_missing_file_suggests_the_near_names(tmp_path):
    (tmp_path / "prompts.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match=rf"no such file or folder; did you mean {tmp_path}/prompts\.jsonl\?"):
        read_prompts(tmp_path / "promts.jsonl")
    with pytest.raises(DataError, match=r"the folder .*nowhere does not exist either"):
        read_prompts(tmp_path / "nowhere" / "prompts.jsonl")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "data.prompts is empty"),
        ("  ", "data.prompts is empty"),
        ("a\0b.jsonl", "neither a file nor a folder"),
        ("x" * 5000, "not a path that can be read"),
        ("/dev/null", "neither a file nor a folder"),
        ("package:../errors.py", "leads out of the package"),
        ("package:/etc/passwd", "leads out of the package"),
        ("package:quickstart/../../io/files.py", "leads out of the package"),
        ("package:a\0b", "is not a name"),
        ("package:no-such.jsonl", "the package ships no such file"),
        ([], "the list of rows is empty"),
        (["a", ""], "row index 1, field 'prompt': the user's text is empty"),
        (["a", 3], "row index 1: a row must be an object or a string, not int 3"),
        ([{"prompt": "a", 3: "b"}], "the name of a field must be a string, not int 3"),
        ([{"prompt": "a", "model": object()}], "field 'model': holds object, which is neither text nor number"),
    ],
)
def test_a_source_that_is_no_source(source, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_prompts(source)


def test_a_folder_without_prompts(tmp_path):
    with pytest.raises(DataError, match="the folder holds no file of prompts"):
        read_prompts(tmp_path)
    (tmp_path / "README.md").write_bytes(GOOD)
    (tmp_path / "sub.jsonl").mkdir()
    with pytest.raises(DataError, match="the folder holds no file of prompts"):
        read_prompts(tmp_path)


def test_an_error_in_a_folder_names_the_file_in_it(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.jsonl: holds no prompts"):
        read_prompts(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(GOOD + b"{")
    with pytest.raises(DataError, match=r"b\.jsonl, line 2: is not JSON"):
        read_prompts(tmp_path)


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "gone.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name in ("dangling.jsonl", "loop.jsonl"):
        with pytest.raises(DataError, match="no such file or folder"):
            read_prompts(tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        read_prompts(tmp_path / "pipe.jsonl")
