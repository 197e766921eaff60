"""One readable line for what jsonargparse says in twenty: the key, where it stands, what is accepted.

jsonargparse raises a chain of exceptions, one for each level of the configuration. The links name keys and classes, the
last one the cause. Wherever a message is not of a known form its own words are passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sppo_lightning.cli_files import ConfigFile
from sppo_lightning.cli_types import choices, imported, parameters, spoken
from sppo_lightning.io.secrets import MASK, is_secret_name

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_CALLABLE = re.compile(
    r"Type .* expects a function or a callable class: .*(?:class_path='|Got value: )([\w.]+)", re.DOTALL
)
_NOT_ACCEPTED = re.compile(
    r"(?:Option|Subcommand '\w+' does not accept option|Group '.*' does not accept option) '([^']+)'"
)
_WRONG_TYPE = re.compile(r"(?:Expected|Value not) .*?\. Got value: (.*)", re.DOTALL)
_NO_CLASS = re.compile(
    r"Expected a dot import path string: (?P<short>.+)"
    r"|Import path (?P<other>\S+) does not correspond to a subclass"
    r"|Expected '(?P<callable>\S+)' to be a (?:sub)?class"
    r"|Expected an instantiatable class, but (?P<abstract>\S+) is"
    r"|Not a valid subclass of \w+\. Got value: (?P<value>.+)"
)
_NO_IMPORT = re.compile(r"No module named|module .* has no attribute|cannot import name|Unexpected import path")
_MISSING = re.compile(r"the following arguments are required: (.+)")
_NO_VALUE = re.compile(r"argument (--[\w.]+).*: expected .*argument")
_UNKNOWN = re.compile(r"unrecognized arguments: (.+)", re.DOTALL)


@dataclass(frozen=True)
class CommandLine:
    """What the person wrote, and what could have been written.

    Attributes:
        verb: such as "fit".
        argv: the words behind the verb.
        files: the configuration files among them.
        roots: first part of a key -> the class that its other parts belong to, or the type of its value.
        known_keys: dotted keys that exist whatever classes are chosen.
    """

    verb: str
    argv: Sequence[str]
    files: Sequence[ConfigFile]
    roots: Mapping[str, Any]
    known_keys: Sequence[str]

    def where(self, key: str, value: str | None = None) -> str:
        """`FILE, line N: ` where the key, with this value if one is given, stands last; "" for the command line."""
        places = [(f"{file.path}, line {line}: ", text) for file in self.files for line, text in file.find(key)]
        for word, following in zip(self.argv, [*self.argv[1:], ""], strict=False):
            name, equals, text = word.partition("=")
            if name.rstrip("+").replace(".init_args", "") == f"--{key}":
                places.append(("", text if equals else following))
        same = [place for place in places if place[1] == value] or places
        return same[-1][0] if same else ""


def explain(error: BaseException, line: CommandLine) -> str:
    """Says in words for the person at the terminal what a parser's error means.

    Args:
        error: jsonargparse's `ArgumentError`, with its causes.
        line: what was parsed.

    Returns:
        A first line that names file and line, or key, and what to do; perhaps further lines with details.
    """
    trail = _Trail.of(error)
    cause = trail.cause
    if match := _UNKNOWN.match(cause):
        return _unknown_word(match[1].split(), line)
    if match := _NO_VALUE.match(cause):
        return _no_value(match[1], line)
    if match := _MISSING.match(cause):
        return _missing([".".join([*trail.keys, name]) for name in match[1].split(", ")], line)
    if match := _NOT_ACCEPTED.match(cause):
        return _not_accepted(trail, match[1], line)
    key = trail.key
    annotation = trail.annotation(line.roots)
    if key and ((match := _NO_CLASS.match(cause)) or _NO_IMPORT.search(cause)):
        name = next(filter(None, match.groups())) if match else trail.name
        return line.where(key, name) + _no_class(key, name, annotation, None if match else cause)
    if match := _WRONG_TYPE.match(cause):
        accepted = spoken(annotation) if annotation is not None else _one_line(cause).partition(". Got value")[0]
        return f"{line.where(key, match[1])}{key}: expected {accepted}, got {_shown(key, match[1])}"
    reason = _one_line(_KEY.sub("", cause)).removeprefix(": ")
    return f"{line.where(key)}{key}: {reason}" if key else reason


@dataclass(frozen=True)
class _Trail:
    """The chain of exceptions, read: the keys from the outside in, each with the class that was chosen there."""

    keys: list[str]
    classes: dict[int, str]  # number of keys that lead to it -> class path
    cause: str

    @classmethod
    def of(cls, error: BaseException) -> _Trail:
        keys: list[str] = []
        classes: dict[int, str] = {}
        link: BaseException | None = error
        while link is not None:
            text = str(link.args[0] if isinstance(link, KeyError) else link)
            # Each level says its key twice, as a TypeError and as the ArgumentError made of it.
            if isinstance(link, TypeError) and (match := _KEY.match(text)):
                keys += [name] if (name := match[1].replace("init_args.", "")) not in keys[-1:] else []
            elif match := _CLASS.match(text) or _CALLABLE.match(text):
                classes[len(keys)] = match[1]
            last, link = text, link.__cause__
        return cls(keys, classes, last)

    @property
    def key(self) -> str:
        return ".".join(self.keys)

    @property
    def name(self) -> str:
        """The class chosen at the last key."""
        return self.classes.get(len(self.keys), "")

    def annotation(self, roots: Mapping[str, Any]) -> Any:
        """The type of the last key, or None where it is not known."""
        if not self.keys:
            return None
        *outer, parameter = self.key.split(".")
        if not outer:
            return roots.get(parameter)
        chosen = self.classes.get(len(self.keys) - 1)
        return parameters(imported(chosen) if chosen else roots.get(outer[0])).get(parameter)


def _unknown_word(words: list[str], line: CommandLine) -> str:
    word = next((word for word in words if word.startswith("-")), words[0]).partition("=")[0]
    if not word.startswith("-"):
        return f"{word!r} is not understood; settings are written --KEY VALUE"
    return f"{word}: there is no such key{_did_you_mean(word.lstrip('-'), line.known_keys, '--')}"


def _no_value(option: str, line: CommandLine) -> str:
    for word, following in zip(line.argv, [*line.argv[1:], "--"], strict=False):
        if word.startswith(option) and "=" not in word and following.startswith("--"):
            return f"{word}: its value is missing; write {word} VALUE"
    return f"{option}: its value is missing"


def _missing(keys: list[str], line: CommandLine) -> str:
    keys = [key.removeprefix(f"{line.verb}.") for key in keys]
    return (
        f"{', '.join(keys)}: must be given, in a --config file or as --{keys[0]} VALUE. A complete example is "
        f"python -m sppo_lightning {line.verb} --config configs/quickstart.yaml"
    )


def _not_accepted(trail: _Trail, name: str, line: CommandLine) -> str:
    key = ".".join([*trail.keys, name.replace("init_args.", "")])
    where = line.where(key)
    owner = imported(trail.name)
    if owner is None:
        return f"{where}{key}: there is no such key{_did_you_mean(key, line.known_keys)}"
    accepted = sorted(parameters(owner))
    takes = f"; it takes {', '.join(accepted)}" if accepted else "; it takes none"
    return f"{where}{key}: {owner.__name__} has no argument {name!r}{_did_you_mean(name, accepted) or takes}"


def _no_class(key: str, name: str, annotation: Any, reason: str | None) -> str:
    kind, known = choices(annotation)
    own = "package.module.Class of your own"
    if reason is not None and "." in name:
        return f"{key}: {name} cannot be imported ({_one_line(reason)}); check the name and PYTHONPATH"
    if name.rpartition(".")[2] == kind:  # what jsonargparse assumes where arguments come before a class
        problem = f"no {kind} is chosen yet; write --{key} CLASS before its arguments"
    else:
        problem = (
            f"there is no {kind} called {name}{_did_you_mean(name, known) or f'; choose one of those below or {own}'}"
        )
    return f"{key}: {problem}\n  known: {', '.join(known)}, or {own}"


def _did_you_mean(name: str, known: Sequence[str], dashes: str = "") -> str:
    longer = [key for key in known if name and key.startswith(name)]
    close = (longer or get_close_matches(name, known, n=2))[:3]
    return f"; did you mean {' or '.join(dashes + key for key in close)}?" if close else ""


def _shown(key: str, value: str) -> str:
    """A value of the person's as it may be repeated to them."""
    if is_secret_name(key):
        return MASK
    return "null" if value == "None" else repr(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())
