import json

import pytest

from sppo_lightning.errors import DataError
from sppo_lightning.io.benchmarks import next_prompt, read_questions
from sppo_lightning.io.benchmarks_answers import Answer, read_baseline, write_answers

ALPACA = [
    {"dataset": "helpful_base", "instruction": "Name a colour.", "output": "Red.", "generator": "base"},
    {"dataset": "koala", "instruction": "Name a colour.", "output": "Red.", "generator": "base"},
]
ARENA_2 = {"uid": "a1b2", "category": "hard_prompt", "subcategory": "coding", "prompt": "Sort a list."}
ARENA_0 = {"question_id": "cafe", "category": "arena-hard-v0.1", "cluster": "x", "turns": [{"content": "Sort a list."}]}
MT = {"question_id": 81, "category": "writing", "turns": ["Write a post.", "Rewrite it in verse."]}


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(question, *texts):
    return Answer(question=question, texts=texts, num_tokens=tuple(len(text.split()) for text in texts), notes={})


def written(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_alpaca_eval_keeps_equal_instructions_apart(tmp_path):
    source, target = tmp_path / "alpaca_eval.json", tmp_path / "model_outputs.json"
    source.write_text(json.dumps(ALPACA))
    questions = read_questions(source, "alpaca_eval")
    assert [question.prompt.prompt_id for question in questions] == ["0", "1"]
    assert questions[0].prompt.text == "Name a colour."
    write_answers(target, "alpaca_eval", [answer(question, "Blä.") for question in questions], "ours")
    assert json.loads(target.read_text()) == [
        {"dataset": "helpful_base", "instruction": "Name a colour.", "output": "Blä.", "generator": "ours"},
        {"dataset": "koala", "instruction": "Name a colour.", "output": "Blä.", "generator": "ours"},
    ]
    assert read_baseline(source) == ("base", {"Name a colour.": ["Red.", "Red."]})
    assert read_baseline(target) == ("ours", {"Name a colour.": ["Blä.", "Blä."]})


def test_arena_hard_version_2(tmp_path):
    questions = read_questions(lines(tmp_path / "question.jsonl", ARENA_2), "arena_hard")
    write_answers(tmp_path / "ours.jsonl", "arena_hard", [answer(questions[0], "sorted(x) it is")], "ours")
    (row,) = written(tmp_path / "ours.jsonl")
    assert (row["uid"], row["model"], row["metadata"]) == ("a1b2", "ours", {"token_len": 3})
    assert row["messages"] == [
        {"role": "user", "content": "Sort a list."},
        {"role": "assistant", "content": {"answer": "sorted(x) it is"}},
    ]
    assert row.keys() == {"uid", "ans_id", "model", "messages", "tstamp", "metadata"}


def test_arena_hard_version_0(tmp_path):
    questions = read_questions(lines(tmp_path / "question.jsonl", ARENA_0), "arena_hard")
    write_answers(tmp_path / "ours.jsonl", "arena_hard", [answer(questions[0], "sorted(x)")], "ours")
    (row,) = written(tmp_path / "ours.jsonl")
    assert (row["question_id"], row["model_id"], row["conv_metadata"]) == ("cafe", "ours", {"token_len": 1})
    assert row["choices"] == [{"index": 0, "turns": [{"content": "sorted(x)"}]}]


def test_mt_bench_has_two_turns(tmp_path):
    (question,) = read_questions(lines(tmp_path / "question.jsonl", MT), "mt_bench")
    assert question.prompt.prompt_id == "81"
    second = next_prompt(question, ("A post.",))
    assert second.conversation == (
        ("user", "Write a post."),
        ("assistant", "A post."),
        ("user", "Rewrite it in verse."),
    )
    write_answers(tmp_path / "ours.jsonl", "mt_bench", [answer(question, "A post.", "A verse.")], "ours")
    (row,) = written(tmp_path / "ours.jsonl")
    assert (row["question_id"], row["model_id"]) == (81, "ours")
    assert row["choices"] == [{"index": 0, "turns": ["A post.", "A verse."]}]
    assert row.keys() == {"question_id", "answer_id", "model_id", "choices", "tstamp"}


def test_plain_prompts(tmp_path):
    (question,) = read_questions(lines(tmp_path / "p.jsonl", {"prompt": "Hi.", "prompt_id": "p1"}), "jsonl")
    write_answers(tmp_path / "ours.jsonl", "jsonl", [answer(question, "Ho.")], "round_003")
    assert written(tmp_path / "ours.jsonl") == [
        {
            "prompt_id": "p1",
            "messages": [{"role": "user", "content": "Hi."}],
            "response": "Ho.",
            "policy": "round_003",
        }
    ]


def test_an_answer_keeps_its_id(tmp_path):
    (question,) = read_questions(lines(tmp_path / "question.jsonl", MT), "mt_bench")
    ids = []
    for texts in (("a", "b"), ("a", "b"), ("a", "c")):
        write_answers(tmp_path / "ours.jsonl", "mt_bench", [answer(question, *texts)], "ours")
        ids.append(written(tmp_path / "ours.jsonl")[0]["answer_id"])
    assert ids[0] == ids[1] != ids[2]


def test_a_file_that_is_not_there(tmp_path):
    for read in (lambda: read_questions(tmp_path / "no.json", "alpaca_eval"), lambda: read_baseline(tmp_path / "no")):
        with pytest.raises(DataError, match="there is no such file"):
            read()
