"""Who may import whom, read from the source: architecture's floors, and what may be imported only when it is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "sppo_lightning"
FLOORS = {
    0: ("types", "errors", "io", "functional"),
    1: ("objectives", "oracles", "engines"),
    2: ("selfplay", "evaluation"),
    3: ("training", "control", "reporting", "callbacks"),
    4: (
        "cli",
        "cli_control",
        "cli_errors",
        "cli_exploit",
        "cli_files",
        "cli_help",
        "cli_quiet",
        "cli_settings",
        "cli_types",
        "cli_verbs",
        "commands",
        "__main__",
    ),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
# They make what ships with the package, or hold no code: nobody imports them, and they may import anybody.
APART = {"quickstart", "assets", "configs"}
SEES_LIGHTNING = {"training", "control", "callbacks", "cli", "cli_control", "cli_exploit", "cli_verbs"}
HEAVY = {
    "mlflow",
    "matplotlib",
    "vllm",
    "openai",
    "llm_blender",
    "datasets",
    "peft",
    "pandas",
    "gymnasium",
    "stable_baselines3",
}
LIGHT = {"__init__", "__main__", "errors", "cli_help", "cli_files"}


@cache
def sources() -> dict[str, ast.Module]:
    """Every file of the package by its module path, callbacks as `callbacks.progress`."""
    files = {path.relative_to(ROOT / PACKAGE): path for path in (ROOT / PACKAGE).rglob("*.py")}
    files |= {path.relative_to(ROOT): path for path in (ROOT / "callbacks").rglob("*.py")}
    return {
        ".".join(name.with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for name, path in files.items()
    }


def imports(tree: ast.AST, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names of imported modules; with `at_import` only those that importing the file imports."""
    for node in ast.iter_child_nodes(tree):
        if at_import and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node, at_import=at_import)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def rooms_imported(tree: ast.AST) -> set[str]:
    found = {name.split(".")[1] for name in imports(tree) if name.startswith(f"{PACKAGE}.")}
    return found & (FLOOR_OF.keys() | APART)


def room_of(module: str) -> str:
    return module.split(".")[0]


MODULES = sorted(sources())


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} - APART - {"__init__"} <= FLOOR_OF.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in FLOOR_OF])
def test_a_room_imports_only_itself_and_lower_floors(module):
    """Neighbours do not import each other; on floors 0, 3 and 4 they may, as the tests below say."""
    room = room_of(module)
    floor = FLOOR_OF[room]
    for other in rooms_imported(sources()[module]) - {room}:
        assert other not in APART, f"{module} imports {other}"
        if floor in (1, 2):
            assert FLOOR_OF[other] < floor, f"{module} (floor {floor}) imports {other} (floor {FLOOR_OF[other]})"
        else:
            assert FLOOR_OF[other] <= floor, f"{module} (floor {floor}) imports {other} (floor {FLOOR_OF[other]})"


def test_training_does_not_know_who_stands_above_it():
    for module in MODULES:
        if room_of(module) == "training":
            assert not rooms_imported(sources()[module]) & {"control", "callbacks"}, module


def test_nobody_imports_callbacks_but_the_command_line():
    importers = {room_of(module) for module in MODULES if "callbacks" in rooms_imported(sources()[module])}
    assert importers == {"callbacks", "cli", "cli_control"}


@pytest.mark.parametrize("module", MODULES)
def test_lightning_is_imported_only_where_it_may_be(module):
    if room_of(module) not in SEES_LIGHTNING:
        seen = [name for name in imports(sources()[module]) if name.split(".")[0] in ("lightning", "pytorch_lightning")]
        assert not seen, f"{module} imports {seen}"
        assert "torch.distributed" not in set(imports(sources()[module]))


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_inside_what_needs_them(module):
    heavy = [name for name in imports(sources()[module], at_import=True) if name.split(".")[0] in HEAVY]
    assert not heavy, f"{module} imports {heavy} when it is imported"


@pytest.mark.parametrize("module", sorted(LIGHT & set(MODULES)))
def test_what_answers_at_once_imports_little(module):
    seen = {name.split(".")[0] for name in imports(sources()[module], at_import=True)}
    assert not seen & {"torch", "transformers", "lightning", "numpy", "jsonargparse", "pyarrow", "scipy"}, seen


def test_the_reader_of_imports_sees_what_it_must():
    tree = ast.parse(
        "import mlflow.tracking\n"
        "if TYPE_CHECKING:\n    import openai\n"
        "def f():\n    from vllm import LLM\n"
        "class A:\n    import pandas\n"
        "try:\n    import peft\nexcept ImportError:\n    pass\n"
    )
    assert set(imports(tree)) == {"mlflow.tracking", "openai", "vllm", "vllm.LLM", "pandas", "peft"}
    assert set(imports(tree, at_import=True)) == {"mlflow.tracking", "pandas", "peft"}
