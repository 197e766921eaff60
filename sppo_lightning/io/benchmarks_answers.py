"""Answer files as the benchmarks' own judges read them."""

from __future__ import annotations

import hashlib
import json
import reprlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo_lightning.errors import DataError
from sppo_lightning.io.benchmarks import BenchmarkFormat, Question
from sppo_lightning.io.files import atomic_write
from sppo_lightning.io.row_files import read_rows


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a policy said to one question.

    Attributes:
        question: the question.
        texts: one for each of its turns.
        num_tokens: of the policy's own tokenizer, one for each turn.
        notes: further fields for plain JSONL, such as how the best of n was chosen.
    """

    question: Question
    texts: tuple[str, ...]
    num_tokens: tuple[int, ...]
    notes: Mapping[str, Any]


def write_answers(path: str | Path, format: BenchmarkFormat, answers: Sequence[Answer], model: str) -> None:
    """Writes an answer file, complete or not at all.

    - alpaca_eval: `model_outputs.json`, a list of `instruction`, `output`, `generator` (and `dataset` where the
      questions have one).
    - arena_hard: JSON Lines, in version 2's layout (`uid`, `ans_id`, `model`, `messages`, `tstamp`, `metadata`) where
      the questions have a `uid`, in version 0.1's (`question_id`, `answer_id`, `model_id`, `choices`, `tstamp`,
      `conv_metadata`) where they do not. `token_len` counts the policy's own tokens; Arena-Hard's style control needs
      its own script's counts of markdown besides.
    - mt_bench: JSON Lines of `question_id`, `answer_id`, `model_id`, `choices`, `tstamp`.
    - jsonl: JSON Lines of `prompt_id`, `messages`, `response`, `policy` and the notes.

    Args:
        path: the file.
        format: whose layout.
        answers: one a question.
        model: what the benchmark shall call the policy.

    Raises:
        RunFolderError: the disk refused.
    """
    now = time.time()
    rows = [_LAYOUTS[format](answer, model, now) for answer in answers]
    if format == "alpaca_eval":
        text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with atomic_write(path, kind="answers") as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_baseline(path: str | Path) -> tuple[str, dict[str, list[str]]]:
    """Reads a `model_outputs.json` of AlpacaEval, or its questions with a baseline's `output` in them.

    Returns:
        the generator's name, and instruction -> its outputs in the file's order: the benchmark asks some questions
        twice.

    Raises:
        DataError: a field is missing or no text, or two generators. It names the file and the record.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file")
    outputs: dict[str, list[str]] = {}
    generator = ""
    for where, row in read_rows(Path(path)):
        for name in ("instruction", "output", "generator"):
            if not isinstance(row, Mapping) or not isinstance(row.get(name), str):
                value = row.get(name) if isinstance(row, Mapping) else row
                raise DataError(
                    f"{where}: a baseline's answer has the texts 'instruction', 'output' and 'generator'; {name!r} is "
                    f"{reprlib.repr(value)}"
                )
        if outputs and row["generator"] != generator:
            raise DataError(f"{where}: is by {row['generator']!r}, the rows above are by {generator!r}")
        generator = row["generator"]
        outputs.setdefault(row["instruction"], []).append(row["output"])
    if not outputs:
        raise DataError(f"{path}: holds no answers")
    return generator, outputs


def _alpaca_eval(answer: Answer, model: str, now: float) -> dict[str, Any]:
    row = answer.question.row
    dataset = {"dataset": row["dataset"]} if "dataset" in row else {}
    return dataset | {"instruction": row["instruction"], "output": answer.texts[0], "generator": model}


def _arena_hard(answer: Answer, model: str, now: float) -> dict[str, Any]:
    row, token_len = answer.question.row, {"token_len": sum(answer.num_tokens)}
    if "uid" not in row:
        turns = [{"content": text} for text in answer.texts]
        return _choices(answer, model, now, turns) | {"conv_metadata": token_len}
    return {
        "uid": row["uid"],
        "ans_id": _answer_id(answer, model),
        "model": model,
        "messages": [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": {"answer": answer.texts[0]}},
        ],
        "tstamp": now,
        "metadata": token_len,
    }


def _mt_bench(answer: Answer, model: str, now: float) -> dict[str, Any]:
    return _choices(answer, model, now, list(answer.texts))


def _choices(answer: Answer, model: str, now: float, turns: list[Any]) -> dict[str, Any]:
    return {
        "question_id": answer.question.row["question_id"],
        "answer_id": _answer_id(answer, model),
        "model_id": model,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": now,
    }


def _jsonl(answer: Answer, model: str, now: float) -> dict[str, Any]:
    prompt = answer.question.prompt
    return {
        "prompt_id": prompt.prompt_id,
        "messages": list(prompt.messages),
        "response": answer.texts[0],
        "policy": model,
        **answer.notes,
    }


_LAYOUTS = {"alpaca_eval": _alpaca_eval, "arena_hard": _arena_hard, "mt_bench": _mt_bench, "jsonl": _jsonl}


def _answer_id(answer: Answer, model: str) -> str:
    """22 characters, as the benchmarks' own random ids have; the same answer keeps its id."""
    content = json.dumps([model, answer.question.prompt.prompt_id, answer.texts])
    return hashlib.sha256(content.encode()).hexdigest()[:22]
