"""What the lab plays, read from YAML and the command line."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser

from sppo_lightning.errors import ConfigError, SPPOError
from sppo_lightning.functional import (
    game_zoo,
    tabular,
    tabular_dpo,
    tabular_queue,
    tabular_regularised,
    tabular_reward,
)
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.tabular import TabularMethod, normalise

_METHOD_MODULES = (tabular, tabular_regularised, tabular_dpo, tabular_reward, tabular_queue)


@dataclass(frozen=True, kw_only=True)
class Game:
    """One entry of `games`, drawn for every seed.

    Attributes:
        label: how the table, the figure and the results call it, such as "random(n=20)".
        games_INN: [I, N, N] all its games, seed by seed; a file may hold several for each seed.
        seed_I: the seed of each.
        starts_IN: [I, N] log pi_0.
        references_IN: [I, N] log pi_ref.
    """

    label: str
    games_INN: Array
    seed_I: list[int]
    starts_IN: Array
    references_IN: Array


@dataclass(frozen=True, kw_only=True)
class LabConfig:
    """A checked configuration.

    Attributes:
        games: the games, with a start and a reference policy for every seed.
        methods: the methods, each played on every game.
        num_steps: number of updates.
        seeds: what starts, references and games without a seed of their own are drawn from.
        logit_scale: standard deviation of the logits of starts and references, in nats.
        out: the folder that results and figures are written to.
    """

    games: list[Game]
    methods: list[TabularMethod]
    num_steps: int
    seeds: list[int]
    logit_scale: float
    out: Path


def parse_config(argv: list[str]) -> LabConfig:
    """Reads `--config FILE` and the keys given beside it.

    Raises:
        ConfigError: an unknown key, game or method, a missing or wrong value. It names the key.
        DataError: a game's file cannot be read as a game.
    """
    try:
        settings = _parser().parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(f"lab: {_one_line(error)}; see python -m sppo_lightning lab --help") from error
    for key in ("games", "methods", "seeds"):
        if not getattr(settings, key):
            raise ConfigError(f"lab: {key} must not be empty")
    if settings.num_steps < 1:
        raise ConfigError(f"lab: num_steps must be at least 1, got {settings.num_steps}")
    if any(seed < 0 for seed in settings.seeds):
        raise ConfigError(f"lab: seeds must be at least 0, got {settings.seeds}")
    if not 0 <= settings.logit_scale < np.inf:
        raise ConfigError(f"lab: logit_scale must be a number that is at least 0, got {settings.logit_scale}")
    games = [
        _game(f"games[{i}]", entry, settings.seeds, settings.logit_scale) for i, entry in enumerate(settings.games)
    ]
    methods = [_method(f"methods[{i}]", entry) for i, entry in enumerate(settings.methods)]
    _refuse_twins("games", [game.label for game in games])
    _refuse_twins("methods", [repr(method) for method in methods])
    return LabConfig(
        games=games,
        methods=methods,
        num_steps=settings.num_steps,
        seeds=settings.seeds,
        logit_scale=settings.logit_scale,
        out=Path(settings.out),
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m sppo_lightning lab",
        description="Play preference games whose answer is known, with the exact update of every method. Prints how "
        "exploitable the average and the last policy are and writes the curves as results.json, gaps.pdf and gaps.png.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    entries = list[str | dict[str, Any]]
    parser.add_argument("--config", action="config", help="a YAML file with these keys, such as configs/lab/rps.yaml")
    parser.add_argument(
        "--games",
        type=entries,
        required=True,
        help=f"names with their arguments, such as [rps, random: {{n: 20}}]; known: {', '.join(_known_games())}. "
        "A game without a seed of its own is drawn anew for each seed",
    )
    parser.add_argument(
        "--methods",
        type=entries,
        required=True,
        help="names with their arguments, such as [SPPO: {eta: 0.1}, INPO: {eta: 0.5, tau: 0.1}]; known: "
        f"{', '.join(_known_methods())}, or package.module.Class of your own",
    )
    parser.add_argument("--num_steps", type=int, default=1000, help="number of updates, T")
    parser.add_argument("--seeds", type=list[int], default=[0], help="one start policy and reference for each")
    parser.add_argument(
        "--logit_scale",
        type=float,
        default=0.5,
        help="standard deviation of the normal logits of start and reference, in nats; 0 is uniform",
    )
    parser.add_argument("--out", type=str, default="runs/lab", help="folder for the results, made if missing")
    return parser


def _game(key: str, entry: str | dict[str, Any], seeds: list[int], logit_scale: float) -> Game:
    name, arguments = _entry(key, entry)
    factory = _find(key, name, "game", _known_games())
    own_seed = "seed" not in arguments and "seed" in inspect.signature(factory).parameters
    drawn = [_call(f"{key}.{name}", factory, {**arguments, "seed": seed} if own_seed else arguments) for seed in seeds]
    drawn_SBNN = np.stack([game if game.ndim == 3 else game[None] for game in drawn])
    logits = np.stack(
        [logit_scale * np.random.default_rng(seed).standard_normal((2, *drawn_SBNN.shape[1:3])) for seed in seeds]
    ).reshape(len(seeds), 2, *drawn_SBNN.shape[1:3])
    N = drawn_SBNN.shape[-1]
    return Game(
        label=_label(name, arguments),
        games_INN=drawn_SBNN.reshape(-1, N, N),
        seed_I=[seed for seed in seeds for _ in range(drawn_SBNN.shape[1])],
        starts_IN=normalise(logits[:, 0].reshape(-1, N)),
        references_IN=normalise(logits[:, 1].reshape(-1, N)),
    )


def _method(key: str, entry: str | dict[str, Any]) -> TabularMethod:
    name, arguments = _entry(key, entry)
    return _call(f"{key}.{name}", _find(key, name, "method", _known_methods()), arguments)


def _refuse_twins(key: str, labels: list[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"lab: {key} has {label} twice, and its results would be mixed up")


def _entry(key: str, entry: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`rps` or `rps: {a: 0.9}`, the two ways to write an entry."""
    if isinstance(entry, str):
        return entry, {}
    if len(entry) != 1:
        raise ConfigError(f"lab: {key} must be one name with its arguments, such as rps: {{a: 0.9}}, got {entry}")
    ((name, arguments),) = entry.items()
    if arguments is not None and not isinstance(arguments, dict):
        raise ConfigError(f"lab: {key}.{name} must map arguments to values, such as {{eta: 0.1}}, got {arguments!r}")
    return name, arguments or {}


def _find(key: str, name: str, kind: str, known: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name in known:
        return known[name]
    if kind == "method" and "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"lab: {key}: {name} cannot be imported ({error})") from error
        if not (isinstance(found, type) and issubclass(found, TabularMethod)):
            raise ConfigError(f"lab: {key}: {name} is not a subclass of {TabularMethod.__module__}.TabularMethod")
        return found
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    raise ConfigError(f"lab: {key}: there is no {kind} called {name}; {hint}")


def _call(key: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Calls a class or function after checking the arguments against its signature."""
    parser = ArgumentParser(exit_on_error=False)
    if isinstance(factory, type):
        parser.add_class_arguments(factory)
    else:
        parser.add_function_arguments(factory)
    try:
        return factory(**parser.parse_object(arguments).as_dict())
    except ArgumentError as error:
        known = ", ".join(inspect.signature(factory).parameters)
        raise ConfigError(f"lab: {key}: {_one_line(error)}; it takes {known}") from error
    except SPPOError as error:
        raise type(error)(f"lab: {key}: {error}") from error


def _known_games() -> dict[str, Callable[..., Any]]:
    return _public(game_zoo, inspect.isfunction)


def _known_methods() -> dict[str, Callable[..., Any]]:
    known: dict[str, Callable[..., Any]] = {}
    for module in _METHOD_MODULES:
        known |= _public(module, lambda item: inspect.isclass(item) and issubclass(item, TabularMethod))
    return {name: method for name, method in known.items() if not inspect.isabstract(method)}


def _public(module: ModuleType, wanted: Callable[[object], bool]) -> dict[str, Callable[..., Any]]:
    return {
        name: item
        for name, item in inspect.getmembers(module, wanted)
        if item.__module__ == module.__name__ and not name.startswith("_")
    }


def _label(name: str, arguments: dict[str, Any]) -> str:
    if name == "from_file":
        return Path(arguments["path"]).name
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
