"""AlpacaEval's annotation files, and the two files on the hub that its length-controlled win rate reads."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo_lightning.errors import DataError
from sppo_lightning.io.row_files import read_rows

TIE = 1.5
"""A preference in the middle between the baseline's win, 1, and the model's, 2."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One judged pair: the answers of a baseline (`output_1`) and of a model (`output_2`) to one instruction.

    Example:
        `Annotation(preference=1.93, baseline_length=412, model_length=875)`: the judge prefers the model.

    Attributes:
        preference: 1, the baseline's answer is better, to 2, the model's; 1.5 is a tie. None: the judge gave none.
        baseline_length: of the baseline's answer, in characters.
        model_length: of the model's answer, in characters.
    """

    preference: float | None
    baseline_length: int
    model_length: int


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """A file of annotations, in its order, which is the benchmark's: instruction difficulties are found by position.

    Attributes:
        baseline: `generator_1`.
        model: `generator_2`.
        rows: one an instruction, at least one.
    """

    baseline: str
    model: str
    rows: Sequence[Annotation]


@dataclass(frozen=True, kw_only=True)
class GamedAnnotation:
    """One row of AlpacaEval's `df_gamed.csv`: a baseline that was told to be brief or verbose, against itself.

    Attributes:
        preference: 0, the baseline as it is wins, to 1, the gamed one wins; None where the file has none.
        length_difference: of the two answers in standard deviations.
        difficulty: of the instruction.
        gamed: True for a gamed baseline's row.
    """

    preference: float | None
    length_difference: float
    difficulty: float
    gamed: bool


def read_annotations(path: str | Path) -> Annotations:
    """Reads AlpacaEval's `annotations.json`: a list of objects, of which five fields are read.

    `preference` (1 to 2, 0 or 1.5 for a tie, null where the judge's answer could not be read), `output_1`, `output_2`,
    `generator_1`, `generator_2`.

    Raises:
        DataError: the file cannot be read, a field is missing or is not what it should be, or the file holds more than
            one pair of models. It names the file and the record.
    """
    baseline = model = ""
    rows: list[Annotation] = []
    for where, row in read_rows(Path(path)):
        fields = _fields(row, where, ("preference", "output_1", "output_2", "generator_1", "generator_2"))
        pair = _text(fields, "generator_1", where), _text(fields, "generator_2", where)
        if rows and pair != (baseline, model):
            raise DataError(
                f"{where}: compares {pair[0]!r} with {pair[1]!r}, the rows above {baseline!r} with {model!r}; give "
                "each pair of models a file of its own"
            )
        baseline, model = pair
        rows.append(
            Annotation(
                preference=_preference(fields["preference"], where),
                baseline_length=len(_text(fields, "output_1", where)),
                model_length=len(_text(fields, "output_2", where)),
            )
        )
    if not rows:
        raise DataError(f"{path}: holds no annotations")
    return Annotations(baseline=baseline, model=model, rows=rows)


def read_instruction_difficulty(path: str | Path) -> dict[int, float]:
    """Reads the hub's `instruction_difficulty.csv`: position of the instruction in the benchmark -> difficulty.

    The first column holds the position, whatever it is called; the other one is `instruction_difficulty`.

    Raises:
        DataError: a column is missing, a value is no number, or a position stands twice. It names file and line.
    """
    difficulties: dict[int, float] = {}
    for where, row in read_rows(Path(path)):
        fields = _fields(row, where, ("instruction_difficulty",))
        position = _position(next(iter(fields.values())), where)
        if position in difficulties:
            raise DataError(f"{where}: position {position} stands a second time")
        difficulties[position] = _number(fields, "instruction_difficulty", where)
    if not difficulties:
        raise DataError(f"{path}: holds no difficulties")
    return difficulties


def read_gamed_baseline(path: str | Path) -> tuple[list[GamedAnnotation], dict[int, float]]:
    """Reads the hub's `df_gamed.csv`.

    Returns:
        its rows, and the difficulty of each instruction by position, which the file repeats in each of its models.

    Raises:
        DataError: a column is missing or a value is not what it should be. It names file and line.
    """
    rows: list[GamedAnnotation] = []
    difficulties: dict[int, float] = {}
    for where, row in read_rows(Path(path)):
        fields = _fields(
            row, where, ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
        )
        if fields["not_gamed_baseline"] not in ("True", "False"):
            raise DataError(
                f"{where}, field 'not_gamed_baseline': must be True or False, not {fields['not_gamed_baseline']!r}"
            )
        known = fields["preference"] not in ("", "nan")
        preference = _number(fields, "preference", where) if known else None
        if preference is not None and not 0 <= preference <= 1:
            raise DataError(f"{where}, field 'preference': must lie in [0, 1], not {preference:g}")
        gamed = GamedAnnotation(
            preference=preference,
            length_difference=_number(fields, "std_delta_len", where),
            difficulty=_number(fields, "instruction_difficulty", where),
            gamed=fields["not_gamed_baseline"] == "False",
        )
        rows.append(gamed)
        difficulties.setdefault(_position(fields["index"], where), gamed.difficulty)
    if not rows:
        raise DataError(f"{path}: holds no annotations")
    return rows, difficulties


def _fields(row: Any, where: str, names: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: must be an object with {', '.join(names)}, not {reprlib.repr(row)}")
    missing = [name for name in names if name not in row]
    if missing:
        raise DataError(f"{where}: has no field {missing[0]!r}; it has {', '.join(map(str, row)) or 'none'}")
    return row


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(fields[name], str):
        raise DataError(f"{where}, field {name!r}: must be a string, not {reprlib.repr(fields[name])}")
    return fields[name]


def _preference(value: Any, where: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    # bool is an int in Python.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}, field 'preference': must be a number or null, not {reprlib.repr(value)}")
    if value == 0:
        return TIE
    if not 1 <= value <= 2:
        raise DataError(
            f"{where}, field 'preference': must lie in [1, 2] (1: output_1 is better, 2: output_2, 1.5 or 0: a tie), "
            f"not {value:g}"
        )
    return float(value)


def _number(fields: Mapping[str, Any], name: str, where: str) -> float:
    try:
        number = float(fields[name])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}, field {name!r}: must be a number, not {reprlib.repr(fields[name])}")
    return number


def _position(value: Any, where: str) -> int:
    try:
        position = int(value)
    except (TypeError, ValueError):
        position = -1
    if position < 0:
        raise DataError(f"{where}: the instruction's position must be a whole number from 0, not {reprlib.repr(value)}")
    return position
