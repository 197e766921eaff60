"""What an LLM judge is shown, from a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.pairwise import Pair
from sppo_lightning.types import Message, Prompt

_KEYS = {"system", "user", "pattern"}
# The whole reply is the letter, with what chat models put around it: "**A**", "Response B.", "[[A]]", "A is better".
# A reply that begins with the article "A" is none.
_LETTER = (
    r"\A\W*(?:(?i:final |the )*(?i:response|answer|option|assistant|verdict)\W+(?i:is\W+)?)?([AB])"
    r"(?=\W*\Z|\W*\n|[.:,;)\]*]| is\b)"
)
_EXAMPLE = Pair(
    prompt=Prompt(prompt_id="example", messages=({"role": "user", "content": "P-MARK"},)),
    first="FIRST-MARK",
    second="SECOND-MARK",
)


class JudgeTemplate:
    """The messages for a pair, and where the verdict stands in the reply.

    Args:
        source: a YAML file with `user`, and optionally `system` and `pattern`.

    Attributes:
        pattern: finds the verdict, "A" (the first response is better) or "B"; its last match counts.

    Raises:
        ConfigError: the file cannot be read, or does not show both responses.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        fields = self._read()
        try:
            self.pattern = re.compile(fields.get("pattern", _LETTER))
        except re.error as error:
            raise self._wrong(f"pattern is not a regular expression ({error})") from error
        if self.pattern.groups < 1:
            raise self._wrong("pattern needs a group around the letter, such as 'Verdict: ([AB])'")
        try:
            self._parts = [
                (role, self._jinja.from_string(fields[role])) for role in ("system", "user") if role in fields
            ]
            shown = "".join(message["content"] for message in self.messages(_EXAMPLE))
        except TemplateError as error:
            raise self._wrong(f"the template cannot be filled in: {error}") from error
        for name, mark in (("first", "FIRST-MARK"), ("second", "SECOND-MARK"), ("prompt or messages", "P-MARK")):
            if mark not in shown:
                raise self._wrong(f"the template does not show {{{{ {name} }}}}, so the judge would not see it")

    def messages(self, pair: Pair) -> list[Message]:
        """The chat that asks about a pair in the order in which it stands."""
        return [
            Message(
                role=role,
                content=part.render(
                    prompt=pair.prompt.text, messages=pair.prompt.messages, first=pair.first, second=pair.second
                ),
            )
            for role, part in self._parts
        ]

    def _read(self) -> dict[str, str]:
        path = Path(self._source)
        try:
            fields: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise self._wrong(f"is not YAML: {error}") from error
        if not isinstance(fields, dict) or not isinstance(fields.get("user"), str):
            raise self._wrong("has no key `user` with the text that asks for the verdict")
        unknown = [str(name) for name in fields if name not in _KEYS]
        if unknown or not all(isinstance(value, str) for value in fields.values()):
            raise self._wrong(f"may hold the texts {', '.join(sorted(_KEYS))} and nothing else, it has {list(fields)}")
        return fields

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"data.oracle.template: {self._source}: {what}")
