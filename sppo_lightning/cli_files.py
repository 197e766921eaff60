"""The configuration files on the command line: found and checked before anything heavy is imported, searched later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from sppo_lightning.errors import ConfigError

_PACKAGE = Path(__file__).parent
_FLAGS = ("--config", "-c")


@dataclass(frozen=True)
class ConfigFile:
    """A file that `--config` names, and its content with the lines it stands on."""

    path: str
    root: yaml.MappingNode

    def find(self, key: str) -> list[tuple[int, str]]:
        """Where a setting stands: the line, 1-based, and the text of its value ("" unless it is one word or number).

        Args:
            key: dotted, without `init_args`: "data.engine.temperature".
        """
        return list(_find(self.root, key.split("."), 0))


def rewrite(argv: Sequence[str]) -> list[str]:
    """Spells out what is short in the arguments of `fit`: `--from` is `--data.fork_from`."""
    split = [word.partition("=") for word in argv]
    return [
        f"--data.fork_from{equals}{value}" if name == "--from" else name + equals + value
        for name, equals, value in split
    ]


def resolve_configs(argv: Sequence[str]) -> list[str]:
    """Each `--config configs/...` as it stands here or, where there is none, in the package."""
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        if words and words[-1] in _FLAGS:
            word = resolve_config(word)
        elif name in _FLAGS and equals:
            word = f"{name}={resolve_config(value)}"
        words.append(word)
    return words


def resolve_config(word: str) -> str:
    """See `resolve_configs`."""
    for root in (_PACKAGE, _PACKAGE.parent):  # in the wheel the configurations lie inside, in a checkout beside
        if Path(word).parts[:1] == ("configs",) and not Path(word).exists() and root.joinpath(word).is_file():
            return str(root.joinpath(word))
    return word


def read_config_files(argv: Sequence[str]) -> list[ConfigFile]:
    """Reads every configuration file that the rewritten command line names.

    Raises:
        ConfigError: a file is missing, cannot be read, is not YAML, says something twice, or is not a mapping of
            settings. It names the file, and the line where there is one.
    """
    return [ConfigFile(path, _read(path)) for path in _paths(argv)]


def _paths(argv: Sequence[str]) -> Iterator[str]:
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name in _FLAGS:
            yield value if equals else following


def _read(path: str) -> yaml.MappingNode:
    if not path or path.startswith("--"):
        raise ConfigError("--config: the name of a file is missing: write --config FILE")
    if Path(path).is_dir():
        raise ConfigError(f"--config {path}: is a folder; name one of the files in it")
    if not Path(path).is_file():
        raise ConfigError(f"--config {path}: there is no such file{_near(path)}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        json.dumps(yaml.safe_load(text), default=str, skipkeys=True)  # refuses what contains itself
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}, line {line}: is not UTF-8 (0x{error.object[error.start]:02x}); save the file as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else path
        raise ConfigError(f"{where}: is not YAML: {error.problem}. Check indentation, colons and brackets") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: holds no settings; write them as in configs/quickstart.yaml, one KEY: VALUE a line")
    for name, _ in root.value:
        if name.tag != "tag:yaml.org,2002:str":
            raise ConfigError(f"{path}, line {name.start_mark.line + 1}: {name.value} is no name of a setting")
    _refuse_repeats(path, root)
    return root


def _near(path: str) -> str:
    """What the person may have meant."""
    folders = [Path(path).parent] + [root / Path(path).parent for root in (_PACKAGE, _PACKAGE.parent)]
    names = {file.name for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")}
    close = get_close_matches(Path(path).name, names, n=1)
    return f"; did you mean {Path(path).parent / close[0]}?" if close else ""


def _refuse_repeats(path: str, root: yaml.Node) -> None:
    """YAML lets the second of two equal keys win without a word."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        lines: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.value in lines and name.value != "<<":
                raise ConfigError(
                    f"{path}, line {line}: {name.value} is set a second time, first on line {lines[name.value]}; "
                    "remove one of them"
                )
            lines[str(name.value)] = line
            waiting.append(value)


def _find(node: yaml.Node, parts: list[str], line: int) -> Iterator[tuple[int, str]]:
    if not parts:
        yield line, node.value if isinstance(node, yaml.ScalarNode) else ""
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _find(item, parts, line)
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            words = str(name.value).split(".")
            if words == ["init_args"]:
                yield from _find(value, parts, line)
            elif parts[: len(words)] == words:
                yield from _find(value, parts[len(words) :], name.start_mark.line + 1)
