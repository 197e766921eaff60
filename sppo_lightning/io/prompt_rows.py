"""One row of a prompt source: the conversation in it, its id, and everything else as metadata."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import reprlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sppo_lightning.errors import DataError
from sppo_lightning.types import Message, Prompt

_ROLES = ("system", "user", "assistant")
_MAX_DEPTH = 64
_WRITTEN_AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


def read_row(row: Any, where: str) -> tuple[Prompt, bool]:
    """Turns one row into a prompt.

    A string is one user turn. A dictionary holds the conversation in the first of these fields that it has:

    - `prompt`: a string, or a list of messages that ends with the user's;
    - `messages`: a list of messages; a last turn of the assistant is the answer and is dropped;
    - `instruction`: a string, with an optional string `input` below it, as in Alpaca's files.

    `prompt_id` or `id` (a string or whole number) names it. All other fields become metadata. A field that is None is
    absent. Of a message, `role` and `content` are read.

    Args:
        row: the row.
        where: names it in errors, such as "prompts.jsonl, line 3".

    Returns:
        The prompt, and whether the row gave its id; if not, the id is 16 hexadecimal digits of the SHA-256 of the
        messages, the same wherever the row stands.

    Raises:
        DataError: anything else.
    """
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a row must be an object or a string, not {_show(row)}")
    fields = {
        _key(name, where): _plain(value, f"{where}, field {name!r}") for name, value in row.items() if value is not None
    }
    messages = _conversation(fields, where)
    given = next((name for name in ("prompt_id", "id") if name in fields), None)
    prompt_id = _content_id(messages) if given is None else _given_id(fields.pop(given), f"{where}, field {given!r}")
    return Prompt(prompt_id=prompt_id, messages=messages, metadata=fields), given is not None


def _conversation(fields: dict[str, Any], where: str) -> tuple[Message, ...]:
    """Takes the conversation out of `fields`."""
    if "prompt" in fields:
        value = fields.pop("prompt")
        if isinstance(value, str):
            return (_turn("user", value, f"{where}, field 'prompt'"),)
        if not isinstance(value, list):
            raise DataError(f"{where}, field 'prompt': must be a string or a list of messages, not {_show(value)}")
        return _messages(value, f"{where}, field 'prompt'")
    if "messages" in fields:
        value = fields.pop("messages")
        return _messages(value[:-1] if ends_with_answer(value) else value, f"{where}, field 'messages'")
    if "instruction" in fields:
        turn = _turn("user", fields.pop("instruction"), f"{where}, field 'instruction'")
        context = fields.pop("input", "")
        if not isinstance(context, str):
            raise DataError(f"{where}, field 'input': must be a string, not {_show(context)}")
        return (Message(role="user", content=f"{turn['content']}\n\n{context}") if context.strip() else turn,)
    found = ", ".join(map(repr, fields)) or "none"
    raise DataError(
        f"{where}: has no field 'prompt', 'messages' or 'instruction' (fields with a value: {found}); rename the one "
        "that holds the prompt"
    )


def ends_with_answer(value: Any) -> bool:
    """Whether this is a list of messages whose last turn is the assistant's."""
    return (
        isinstance(value, list) and bool(value) and isinstance(value[-1], dict) and value[-1].get("role") == "assistant"
    )


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: must be a list of messages, not {_show(value)}")
    turns = []
    for index, message in enumerate(value):
        place = f"{where}, message index {index}"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"{place}: must be an object with 'role' and 'content', not {_show(message)}")
        if message["role"] not in _ROLES:
            raise DataError(f"{place}: the role must be one of {', '.join(_ROLES)}, not {_show(message['role'])}")
        turns.append(_turn(message["role"], message["content"], place))
    roles = [turn["role"] for turn in turns]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if not talk or talk != ["user" if i % 2 == 0 else "assistant" for i in range(len(talk))] or talk[-1] != "user":
        raise DataError(
            f"{where}: the turns must be an optional system turn, then user and assistant in alternation, the last one "
            f"the user's; got {', '.join(roles) or 'none'}"
        )
    return tuple(turns)


def _turn(role: str, content: Any, where: str) -> Message:
    if not isinstance(content, str):
        raise DataError(f"{where}: the text must be a string, not {_show(content)}")
    if not content.strip():
        raise DataError(f"{where}: the {role}'s text is empty; remove the row or fill it in")
    if "\0" in content:
        raise DataError(f"{where}: the {role}'s text holds a NUL character; remove it")
    return Message(role=role, content=content)


def _given_id(value: Any, where: str) -> str:
    # bool is an int in Python, and 1.0 beside 1 would be two ids for one number.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}: an id must be a string or a whole number, not {_show(value)}")
    if not str(value).strip() or "\0" in str(value):
        raise DataError(f"{where}: an id must not be empty or hold a NUL character; got {_show(value)}")
    return str(value)


def _content_id(messages: Sequence[Message]) -> str:
    content = json.dumps([[message["role"], message["content"]] for message in messages])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """The value in JSON's types, so that a round can store it; dates and decimals become text.

    Raises:
        DataError: text that no UTF-8 file can hold, bytes, other objects, or nesting deeper than `_MAX_DEPTH`.
    """
    if depth > _MAX_DEPTH:
        raise DataError(f"{where}: is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: holds half a surrogate pair (\\u{ord(value[error.start]):04x} at character "
                f"{error.start}), which is no text; it was cut in the middle of a character"
            ) from error
        return value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_key(name, where): _plain(item, where, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where, depth + 1) for item in value]
    if isinstance(value, _WRITTEN_AS_TEXT):
        return str(value)
    raise DataError(f"{where}: holds {type(value).__name__}, which is neither text nor number; remove the column")


def _key(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise DataError(f"{where}: the name of a field must be a string, not {_show(name)}")
    return _plain(name, where)


def _show(value: Any) -> str:
    """A value as far as it helps in an error, on one line."""
    return f"{type(value).__name__} {reprlib.repr(value)}"
