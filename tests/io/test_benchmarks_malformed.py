"""Benchmark, annotation and answer files that are not what they should be: the error names the file and the record."""

import json

import pytest

from sppo_lightning.errors import DataError
from sppo_lightning.io.benchmarks import read_questions
from sppo_lightning.io.benchmarks_annotations import read_annotations, read_gamed_baseline, read_instruction_difficulty
from sppo_lightning.io.benchmarks_answers import read_baseline

GOOD = {"preference": 2, "output_1": "a", "output_2": "b", "generator_1": "base", "generator_2": "ours"}
OUTPUT = {"instruction": "Name a colour.", "output": "Red.", "generator": "base"}
GAMED = "index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n"


def questions(format):
    return lambda path: read_questions(path, format)


def without(row, field):
    return {name: value for name, value in row.items() if name != field}


def rows(*values):
    return json.dumps(values)


CASES = {
    "annotations are cut off": (read_annotations, "a.json", rows(GOOD)[:-9], "is not JSON"),
    "annotations are one object": (read_annotations, "a.json", json.dumps(GOOD), "must hold a JSON list"),
    "annotations are none": (read_annotations, "a.json", "[]", "holds no annotations"),
    "an annotation is a list": (read_annotations, "a.json", rows(GOOD, [1]), "index 1: must be an object"),
    "no preference": (
        read_annotations,
        "a.json",
        rows(GOOD, without(GOOD, "preference")),
        "index 1: has no field",
    ),
    "preference as text": (read_annotations, "a.json", rows(GOOD | {"preference": "2"}), "index 0, field 'preference'"),
    "preference as a switch": (read_annotations, "a.json", rows(GOOD | {"preference": True}), "a number or null"),
    "preference out of range": (read_annotations, "a.json", rows(GOOD, GOOD | {"preference": 3}), r"index 1.*\[1, 2\]"),
    "an output is missing": (read_annotations, "a.json", rows(GOOD | {"output_2": None}), "index 0, field 'output_2'"),
    "two models in one file": (
        read_annotations,
        "a.json",
        rows(GOOD, GOOD | {"generator_2": "x"}),
        "index 1: comp",
    ),
    "difficulty is no number": (
        read_instruction_difficulty,
        "d.csv",
        ",instruction_difficulty\n0,1.5\n1,hard\n",
        "line 3, field 'instruction_difficulty': must be a number",
    ),
    "a position twice": (read_instruction_difficulty, "d.csv", ",instruction_difficulty\n0,1\n0,2\n", "line 3: pos"),
    "another file's columns": (read_instruction_difficulty, "d.csv", "index,hardness\n0,1\n", "line 2: has no field"),
    "gamed preference": (read_gamed_baseline, "g.csv", f"{GAMED}0,1.5,0.1,0.2,False\n", r"line 2.*\[0, 1\]"),
    "gamed switch": (read_gamed_baseline, "g.csv", f"{GAMED}0,0.5,0.1,0.2,no\n", "line 2, field 'not_gamed_baseline'"),
    "gamed columns": (read_gamed_baseline, "g.csv", "index,preference\n0,1\n", "line 2: has no field 'std_delta_len'"),
    "no instruction": (questions("alpaca_eval"), "q.json", rows(OUTPUT, {"prompt": "x"}), "index 1: has no field 'ins"),
    "an empty instruction": (questions("alpaca_eval"), "q.json", rows({"instruction": " "}), "index 0.*empty"),
    "turns are a text": (
        questions("mt_bench"),
        "q.jsonl",
        '{"question_id": 1, "turns": "x"}\n',
        "1, field 'turns'",
    ),
    "a turn is empty": (questions("mt_bench"), "q.jsonl", '{"question_id": 1, "turns": ["x", ""]}\n', "line 1, turn 2"),
    "no id": (questions("mt_bench"), "q.jsonl", '{"turns": ["x", "y"]}\n', "line 1: has no field 'question_id'"),
    "an id twice": (
        questions("mt_bench"),
        "q.jsonl",
        '{"question_id": 1, "turns": ["x"]}\n{"question_id": "1", "turns": ["y"]}\n',
        "line 2: the id '1' stands already at .*line 1",
    ),
    "a turn without content": (
        questions("arena_hard"),
        "q.jsonl",
        '{"question_id": "a", "turns": [{"text": "x"}]}\n',
        "line 1: a turn must be an object with 'content'",
    ),
    "no prompt": (
        questions("arena_hard"),
        "q.jsonl",
        '{"uid": "a", "category": "x"}\n',
        "line 1, turn 1: must",
    ),
    "nothing at all": (questions("arena_hard"), "q.jsonl", "\n", "holds no questions"),
    "an answer that is no text": (
        read_baseline,
        "b.json",
        rows(OUTPUT, OUTPUT | {"output": 3}),
        "1.*'output' is 3",
    ),
    "answers of two models": (read_baseline, "b.json", rows(OUTPUT, OUTPUT | {"generator": "x"}), "index 1: is by 'x'"),
}


@pytest.mark.parametrize(("read", "name", "text", "message"), CASES.values(), ids=CASES)
def test_the_error_names_file_and_record(read, name, text, message, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
