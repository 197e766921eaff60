"""The questions of benchmarks, as their own files hold them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sppo_lightning.errors import DataError
from sppo_lightning.io.prompt_rows import read_row
from sppo_lightning.io.prompts import read_prompts
from sppo_lightning.io.row_files import read_rows
from sppo_lightning.types import Message, Prompt

BenchmarkFormat = Literal["alpaca_eval", "arena_hard", "mt_bench", "jsonl"]
"""Whose files: AlpacaEval's, Arena-Hard's, MT-Bench's, or prompts in any form that `data.prompts` takes."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a benchmark, of one turn or more.

    Example:
        an MT-Bench line is `Question(prompt=Prompt(prompt_id="81", ...), later_turns=("Rewrite it.",), row={...})`

    Attributes:
        prompt: up to the place of the first answer.
        later_turns: what the user says after each answer.
        row: the fields of the file, which the answer file repeats some of.
    """

    prompt: Prompt
    later_turns: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


def read_questions(path: str | Path, format: BenchmarkFormat) -> list[Question]:
    """Reads a benchmark's questions.

    - alpaca_eval: a JSON list of objects with `instruction`. `output` and `generator`, where they are there, are the
      baseline's.
    - arena_hard: JSON Lines with `uid` and `prompt` (version 2), or with `question_id` and `turns`, each an object with
      `content` (version 0.1).
    - mt_bench: JSON Lines with `question_id` and `turns`, each a string.
    - jsonl: see `io.prompts.read_prompts`; any file that `data.prompts` takes.

    Raises:
        DataError: names the file and the record.
    """
    if format == "jsonl":
        return [Question(prompt=prompt) for prompt in read_prompts(path)]
    _refuse_missing(Path(path))
    questions: list[Question] = []
    seen: dict[str, str] = {}
    for where, question in _READERS[format](Path(path)):
        prompt_id = question.prompt.prompt_id
        if prompt_id in seen:
            raise DataError(f"{where}: the id {prompt_id!r} stands already at {seen[prompt_id]}")
        seen[prompt_id] = where
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: holds no questions")
    return questions


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; download the benchmark's questions and give their path")


def _alpaca_eval(path: Path) -> Iterator[tuple[str, Question]]:
    # AlpacaEval knows instructions by their position and has no ids.
    for position, (where, row) in enumerate(read_rows(path)):
        fields = _object(row, where)
        if "instruction" not in fields:
            raise DataError(f"{where}: has no field 'instruction'; AlpacaEval's files have one in each object")
        prompt, _ = read_row({"instruction": fields["instruction"], "id": position}, where)
        yield where, Question(prompt=prompt, row=fields)


def _arena_hard(path: Path) -> Iterator[tuple[str, Question]]:
    for where, row in read_rows(path):
        fields = _object(row, where)
        if "uid" in fields:  # version 2
            yield where, _question(fields, "uid", [fields.get("prompt")], where)
        else:
            turns = [_content(turn, where) for turn in _turns(fields, where)]
            yield where, _question(fields, "question_id", turns, where)


def _mt_bench(path: Path) -> Iterator[tuple[str, Question]]:
    for where, row in read_rows(path):
        fields = _object(row, where)
        yield where, _question(fields, "question_id", _turns(fields, where), where)


_READERS = {"alpaca_eval": _alpaca_eval, "arena_hard": _arena_hard, "mt_bench": _mt_bench}


def _question(fields: Mapping[str, Any], id_field: str, turns: list[Any], where: str) -> Question:
    if id_field not in fields:
        raise DataError(f"{where}: has no field {id_field!r}, which its answer must repeat")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, str) or not turn.strip():
            raise DataError(f"{where}, turn {number}: must be a text that is not empty, not {reprlib.repr(turn)}")
    prompt, _ = read_row({"prompt": turns[0], "id": fields[id_field]}, where)
    return Question(prompt=prompt, later_turns=tuple(turns[1:]), row=fields)


def _object(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: must be an object, not {reprlib.repr(row)}")
    return row


def _turns(fields: Mapping[str, Any], where: str) -> list[Any]:
    turns = fields.get("turns")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}, field 'turns': must be a list of at least one turn, not {reprlib.repr(turns)}")
    return turns


def _content(turn: Any, where: str) -> Any:
    if not isinstance(turn, Mapping) or "content" not in turn:
        raise DataError(f"{where}: a turn must be an object with 'content', not {reprlib.repr(turn)}")
    return turn["content"]


def next_prompt(question: Question, answers: tuple[str, ...]) -> Prompt:
    """The question's prompt after some answers.

    Args:
        question: of more turns than there are answers.
        answers: to its first turns.
    """
    messages = list(question.prompt.messages)
    for answer, turn in zip(answers, question.later_turns, strict=False):
        messages += [Message(role="assistant", content=answer), Message(role="user", content=turn)]
    return Prompt(prompt_id=question.prompt.prompt_id, messages=tuple(messages), metadata=question.prompt.metadata)
