"""Tables of verdicts, one comparison a record: .jsonl, .json, .csv or .parquet."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppo_lightning.errors import DataError
from sppo_lightning.io.row_files import read_rows
from sppo_lightning.io.votes import Comparison, Votes, VotesBuilder, show

REQUIRED = ("prompt_id", "first", "second")
VOTES = ("votes_first", "votes_second")
LENGTHS = ("first_length", "second_length")
TEXTS = ("first_text", "second_text")
KNOWN = (*REQUIRED, "winner", *VOTES, "votes_tie", "prob_first", "label", *LENGTHS, *TEXTS)


def read_votes_table(path: Path) -> Votes:
    """Reads a table of comparisons.

    Each record has `prompt_id`, `first` and `second` (what the two responses are called, in the order in which the
    judge saw them), and a verdict: `winner` ("first", "second", "tie" or the id of a response), or `votes_first` and
    `votes_second` (with `votes_tie` if there are ties), or `prob_first`, the judge's P(first wins), which may also
    stand beside the others. It may have `label`, which is better in truth, written as `winner`; and `first_length` and
    `second_length`, or `first_text` and `second_text`, whose characters are counted. Empty and null fields are absent.
    A record without a verdict is left out and counted, as judges do fail.

    Raises:
        DataError: the file cannot be read, or a record of it contradicts this. It names file and record.
    """
    builder = VotesBuilder(str(path))
    unused: set[str] = set()
    has_texts = False
    for where, row in read_rows(path):
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: a record must be an object with {show([*REQUIRED])}, not {_show(row)}")
        fields = {name: value for name, value in row.items() if value is not None and value != ""}
        unused |= row.keys() - {*KNOWN}
        comparison = _comparison(fields, where)
        has_texts |= TEXTS[0] in fields and LENGTHS[0] not in fields
        if comparison is None:
            builder.leave_out("without a verdict")
        else:
            builder.add(where, comparison)
    if has_texts:
        builder.length_unit = "characters"
    remarks = (f"columns not used: {show(sorted(map(str, unused)))}",) if unused else ()
    return builder.build(order_known=True, remarks=remarks)


def _comparison(fields: dict[str, Any], where: str) -> Comparison | None:
    prompt_id, first, second = (_name(fields, name, where) for name in REQUIRED)
    votes = _votes(fields, first, second, where)
    prob_first = _number(fields, "prob_first", where, highest=1.0)
    if votes is None and prob_first is None:
        if not fields.keys() & {"winner", *VOTES, "votes_tie"}:
            _refuse_misspelling(fields, where)
        return None
    label = None if "label" not in fields else _verdict(fields["label"], "label", first, second, where)
    first_length, second_length = _lengths(fields, where)
    return Comparison(
        prompt_id=prompt_id,
        first=first,
        second=second,
        votes=votes,
        prob_first=prob_first,
        label=label,
        first_length=first_length,
        second_length=second_length,
    )


def _name(fields: dict[str, Any], name: str, where: str) -> str:
    if name not in fields:
        close = difflib.get_close_matches(name, map(str, fields), n=1)
        hint = f"; rename {close[0]!r}" if close else f"; it has {show(fields)}"
        raise DataError(f"{where}: has no {name!r}{hint}")
    value = fields[name]
    # bool is an int in Python, and 1.0 beside 1 would be two ids for one response.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}, field {name!r}: an id must be a string or a whole number, not {_show(value)}")
    return str(value)


def _votes(fields: dict[str, Any], first: str, second: str, where: str) -> tuple[float, float, float] | None:
    given = [name for name in (*VOTES, "votes_tie") if name in fields]
    if "winner" in fields:
        if given:
            raise DataError(f"{where}: has both 'winner' and {given[0]!r}; one verdict must be enough")
        share = _verdict(fields["winner"], "winner", first, second, where)
        return {1.0: (1.0, 0.0, 0.0), 0.0: (0.0, 1.0, 0.0), 0.5: (0.0, 0.0, 1.0)}[share]
    if not given:
        return None
    missing = [name for name in VOTES if name not in fields]
    if missing:
        raise DataError(f"{where}: has {given[0]!r} but no {missing[0]!r}; write 0 where nobody voted for a side")
    counts = [_number(fields, name, where) or 0.0 for name in (*VOTES, "votes_tie")]
    for name, count in zip((*VOTES, "votes_tie"), counts, strict=True):
        if count != int(count):
            raise DataError(f"{where}, field {name!r}: votes are counted in whole numbers, got {count:g}")
    if sum(counts) == 0:
        raise DataError(f"{where}: nobody voted: {' and '.join(given)} are 0; leave the record out")
    return counts[0], counts[1], counts[2]


def _verdict(value: Any, name: str, first: str, second: str, where: str) -> float:
    shares = {first: 1.0, second: 0.0, "first": 1.0, "second": 0.0, "tie": 0.5}
    if isinstance(value, bool) or str(value) not in shares:
        raise DataError(
            f"{where}, field {name!r}: must be 'first', 'second', 'tie', {first!r} or {second!r}, not {_show(value)}"
        )
    if (first == "second" or second == "first") and str(value) in ("first", "second"):
        raise DataError(f"{where}, field {name!r}: {value!r} may be a place or a response's id; rename the responses")
    return shares[str(value)]


def _lengths(fields: dict[str, Any], where: str) -> tuple[float | None, float | None]:
    for one, other in (LENGTHS, LENGTHS[::-1], TEXTS, TEXTS[::-1]):
        if one in fields and other not in fields and one in LENGTHS:
            raise DataError(f"{where}: has {one!r} but no {other!r}")
    if LENGTHS[0] in fields:
        return _number(fields, LENGTHS[0], where), _number(fields, LENGTHS[1], where)
    if not fields.keys() & {*TEXTS}:
        return None, None
    for name in TEXTS:
        if not isinstance(fields.get(name, ""), str):
            raise DataError(f"{where}, field {name!r}: must be a string, not {_show(fields[name])}")
    first, second = (float(len(fields.get(name, ""))) for name in TEXTS)  # an empty text is a text, too
    return first, second


def _number(fields: dict[str, Any], name: str, where: str, highest: float = math.inf) -> float | None:
    if name not in fields:
        return None
    value = fields[name]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= highest or number == math.inf:
        rule = "at least 0" if highest == math.inf else f"from 0 to {highest:g}"
        raise DataError(f"{where}, field {name!r}: must be a number {rule}, not {_show(value)}")
    return number


def _refuse_misspelling(fields: dict[str, Any], where: str) -> None:
    """A verdict under a misspelt name would be left out as missing."""
    for name in fields.keys() - {*KNOWN}:
        close = difflib.get_close_matches(str(name), ("winner", *VOTES, "votes_tie", "prob_first"), n=1, cutoff=0.8)
        if close:
            raise DataError(f"{where}: has no verdict, but {name!r}; did you mean {close[0]!r}?")


def _show(value: Any) -> str:
    return f"{type(value).__name__} {reprlib.repr(value)}"
