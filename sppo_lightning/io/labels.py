"""A folder in which people are asked to compare responses, and their answers: two files of lines that anybody can read.

    labels/tasks.jsonl      {"pair": "0f3a...", "messages": [...], "first": "...", "second": "..."}
    labels/labels.jsonl     {"pair": "0f3a...", "winner": "first"}

A pair's name is a hash of the conversation and the two texts, so a label is for this pair in any run and in any place.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sppo_lightning.errors import DataError
from sppo_lightning.types import Message

WINNERS = ("first", "second", "tie", "skip")
"""What a person may say; "skip" is no verdict."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Two responses to one conversation, in the order in which people see them.

    Attributes:
        pair: names the pair, whatever the order.
        messages: the conversation, oldest turn first.
        first: one response.
        second: the other.
    """

    pair: str
    messages: Sequence[Message]
    first: str
    second: str

    @classmethod
    def of(cls, messages: Sequence[Message], one: str, other: str) -> Task:
        """The task for two different texts; which comes first is drawn by the pair's name."""
        texts = sorted((one, other))
        key = json.dumps([[[turn["role"], turn["content"]] for turn in messages], texts])
        pair = hashlib.sha256(key.encode()).hexdigest()[:24]
        first, second = texts if int(pair, 16) % 2 else reversed(texts)
        return cls(pair=pair, messages=list(messages), first=first, second=second)


class LabelFolder:
    """Tasks and labels in a folder. Several processes may add to it at the same time.

    Args:
        path: the folder; made when the first task is added.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tasks_file, self.labels_file = self.path / "tasks.jsonl", self.path / "labels.jsonl"

    def tasks(self) -> dict[str, Task]:
        """All tasks, oldest first.

        Raises:
            DataError: a line is no task; names it.
        """
        tasks: dict[str, Task] = {}
        for where, row in _rows(self.tasks_file):
            try:
                task = Task(pair=row["pair"], messages=row["messages"], first=row["first"], second=row["second"])
                right = Task.of(task.messages, task.first, task.second).pair
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{where}: is no task (pair, messages, first and second); {_AGAIN}") from error
            if right != task.pair:
                raise DataError(f"{where}: the texts are not those that the pair {task.pair} was named by; {_AGAIN}")
            tasks[task.pair] = task
        return tasks

    def labels(self) -> dict[str, str]:
        """What people said: pair -> one of `WINNERS`, the last word on each.

        Raises:
            DataError: a line is no label; names it.
        """
        labels: dict[str, str] = {}
        for where, row in _rows(self.labels_file):
            pair, winner = row.get("pair"), row.get("winner")
            if not isinstance(pair, str) or len(pair) != 24:
                raise DataError(f"{where}: pair must be the name of a task, copied from tasks.jsonl; got {pair!r}")
            if winner not in WINNERS:
                raise DataError(f"{where}: winner must be {', '.join(WINNERS[:-1])} or {WINNERS[-1]}, got {winner!r}")
            labels[pair] = winner
        return labels

    def ask(self, tasks: Sequence[Task]) -> None:
        """Adds the tasks that are not there yet."""
        with self._lock():
            known = self.tasks()
            self._append(self.tasks_file, [asdict(task) for task in tasks if task.pair not in known])

    def answer(self, pair: str, winner: str) -> None:
        """Adds a label; the last one on a pair counts."""
        assert winner in WINNERS
        with self._lock():
            self._append(self.labels_file, [{"pair": pair, "winner": winner}])

    def _lock(self) -> FileLock:
        self.path.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path / ".lock")

    @staticmethod
    def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
        with path.open("ab") as file:
            if file.tell() and not path.read_bytes().endswith(b"\n"):  # somebody's editor, or a kill
                lines = b"\n" + lines
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


_AGAIN = "remove the line, the run asks again for what it needs"


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8", "surrogatepass"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{where}: is not JSON ({error}); correct or remove the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: must hold one JSON object, {{...}}; correct or remove the line")
        yield where, row
