"""Constructor arguments, their types in words, and the classes that may stand in a socket."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_SPOKEN = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def parameters(owner: Any) -> dict[str, Any]:
    """A class's constructor arguments with their types; None where there is no type, or one that is not importable."""
    if not inspect.isclass(owner):
        return {}
    names = [name for name in inspect.signature(owner).parameters if name not in ("args", "kwargs", "params")]
    try:
        hints = get_type_hints(owner.__init__)
    except (NameError, TypeError):
        hints = {}
    return {name: hints.get(name) for name in names}


def spoken(annotation: Any) -> str:
    """A type in words: "a whole number or null", "one of mask, drop, keep"."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(spoken(option) for option in get_args(annotation)))
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(annotation))
    if annotation in _SPOKEN:
        return _SPOKEN[annotation]
    items = [spoken(item) for item in get_args(annotation) if item is not ...]
    if origin is tuple:
        return f"[{', '.join(items)}]"
    if origin in (list, Sequence):
        return f"a list, each {', '.join(items)}"
    kind, known = choices(annotation)
    return f"a class of kind {kind}" if known else str(annotation)


def accepts_null(annotation: Any) -> bool:
    """Whether None is of this type; so it is where the type is not known."""
    return annotation in (None, Any, type(None)) or any(accepts_null(option) for option in get_args(annotation))


def choices(annotation: Any) -> tuple[str, list[str]]:
    """What kind of class a type asks for, and the names of all that are imported.

    Returns:
        ("Engine", ["Transformers", ...]); ("class", []) where the type asks for none.
    """
    bases = list(_bases(annotation))
    if not bases:
        return "class", []
    names = {found.__name__ for found in _subclasses(bases[-1])}
    return bases[-1].__name__, sorted(names or {bases[-1].__name__})


def imported(path: str) -> Any:
    """What `package.module.Name` names, or None."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _bases(annotation: Any) -> Iterator[type]:
    """The classes of this world that a type mentions; of a callable, the one it returns."""
    if get_origin(annotation) is Callable:
        yield from _bases(get_args(annotation)[-1])
    elif get_args(annotation):
        for option in get_args(annotation):
            yield from _bases(option)
    elif inspect.isclass(annotation) and annotation not in _SPOKEN:
        yield annotation


def _subclasses(base: type) -> Iterator[type]:
    subclass: type
    for subclass in base.__subclasses__():
        # jsonargparse makes a class of its own of each default.
        if not inspect.isabstract(subclass) and not subclass.__name__.startswith(("_", "LazyInstance_")):
            yield subclass
        yield from _subclasses(subclass)
