"""Recorded verdicts of a judge, whatever file they came from.

Shape letters: B prompts, K responses a prompt, M comparisons (one line of a table, or one pair of a matrix).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sppo_lightning.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Comparisons of responses to the same prompt.

    Example:
        One comparison of "b" (shown first) with "a", two votes for "b", one for "a", 40 and 55 letters long:
        `prompt_ids` ("q1",), `responses` (("b", "a"),), `lengths` ((40.0, 55.0),), `first_M` [0], `second_M` [1],
        `for_first_M` [2], `for_second_M` [1], `ties_M` [0], and NaN as its probability and label.

    Attributes:
        source: the file or folder, for people.
        prompt_ids: [B].
        responses: [B][K] what the responses are called; K may differ.
        lengths: [B][K], NaN where unknown.
        length_unit: such as "characters"; what a table's own lengths count is not known.
        order_known: first and second are the order of presentation; False where a matrix forgot it.
        prompt_M: index into `prompt_ids`.
        first_M: index into the prompt's responses.
        second_M: index into the prompt's responses.
        for_first_M: votes for the first; NaN where there is only a probability.
        for_second_M: votes for the second.
        ties_M: tied votes.
        prob_first_M: the judge's own P(first wins), NaN where it gave none.
        label_M: which is better in truth: 1 the first, 0 the second, 1/2 neither, NaN not known.
        remarks: what a reader must know about how the file was read: records left out, columns not used.
    """

    source: str
    prompt_ids: tuple[str, ...]
    responses: tuple[tuple[str, ...], ...]
    lengths: tuple[tuple[float, ...], ...]
    length_unit: str
    order_known: bool
    prompt_M: NDArray[np.int64]
    first_M: NDArray[np.int64]
    second_M: NDArray[np.int64]
    for_first_M: NDArray[np.float64]
    for_second_M: NDArray[np.float64]
    ties_M: NDArray[np.float64]
    prob_first_M: NDArray[np.float64]
    label_M: NDArray[np.float64]
    remarks: tuple[str, ...] = ()

    @property
    def num_votes(self) -> NDArray[np.float64]:
        """[M] the votes of each comparison, ties included; NaN where there is only a probability."""
        return self.for_first_M + self.for_second_M + self.ties_M

    @property
    def share_first(self) -> NDArray[np.float64]:
        """[M] P(first wins): the share of the votes, a tie counting half, or the judge's probability if there are none.

        In [0, 1].
        """
        with np.errstate(invalid="ignore"):
            shares_M = (self.for_first_M + self.ties_M / 2) / self.num_votes
        return np.where(np.isnan(shares_M), self.prob_first_M, shares_M)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison as it is read; the fields as in `Votes`. It has votes or a probability, or both."""

    prompt_id: str
    first: str
    second: str
    votes: tuple[float, float, float] | None = None
    """For the first, for the second, tied; at least one."""
    prob_first: float | None = None
    label: float | None = None
    first_length: float | None = None
    second_length: float | None = None


@dataclass
class VotesBuilder:
    """Collects comparisons one by one, and refuses those that contradict what stands before them."""

    source: str
    length_unit: str = "units of the file"
    _responses: dict[str, dict[str, int]] = field(default_factory=dict)
    _lengths: dict[tuple[str, str], float] = field(default_factory=dict)
    _rows: list[tuple[str, Comparison]] = field(default_factory=list)
    _left_out: Counter[str] = field(default_factory=Counter)

    def add(self, where: str, comparison: Comparison) -> None:
        """Takes one comparison; `where` names it in errors.

        Raises:
            DataError: a response compared with itself, or one that had another length before.
        """
        if comparison.first == comparison.second:
            raise DataError(f"{where}: compares {comparison.first!r} with itself; give the two responses different ids")
        names = self._responses.setdefault(comparison.prompt_id, {})
        for name, length in (
            (comparison.first, comparison.first_length),
            (comparison.second, comparison.second_length),
        ):
            names.setdefault(name, len(names))
            if length is None:
                continue
            before = self._lengths.setdefault((comparison.prompt_id, name), length)
            if before != length:
                raise DataError(
                    f"{where}: response {name!r} of prompt {comparison.prompt_id!r} has length {length:g} here and "
                    f"{before:g} in an earlier record; different responses need different ids"
                )
        self._rows.append((comparison.prompt_id, comparison))

    def leave_out(self, reason: str) -> None:
        """Counts a record that is not used; the reason completes "left out: 3 records ..."."""
        self._left_out[reason] += 1

    def build(self, *, order_known: bool, remarks: tuple[str, ...] = ()) -> Votes:
        """All comparisons.

        Raises:
            DataError: there is none.
        """
        left_out = tuple(
            f"left out: {count} {'record' if count == 1 else 'records'} {reason}"
            for reason, count in self._left_out.items()
        )
        if not self._rows:
            raise DataError(f"{self.source}: {'; '.join(['holds no verdict', *left_out])}")
        place = {prompt_id: b for b, prompt_id in enumerate(self._responses)}
        rows = [row for _, row in self._rows]

        def numbers(values: list[float | None]) -> NDArray[np.float64]:
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

        def indices(values: list[int]) -> NDArray[np.int64]:
            return np.array(values, dtype=np.int64)

        votes = [row.votes or (None, None, None) for row in rows]
        return Votes(
            source=self.source,
            prompt_ids=tuple(self._responses),
            responses=tuple(tuple(names) for names in self._responses.values()),
            lengths=tuple(
                tuple(self._lengths.get((prompt_id, name), np.nan) for name in names)
                for prompt_id, names in self._responses.items()
            ),
            length_unit=self.length_unit,
            order_known=order_known,
            prompt_M=indices([place[prompt_id] for prompt_id, _ in self._rows]),
            first_M=indices([self._responses[row.prompt_id][row.first] for row in rows]),
            second_M=indices([self._responses[row.prompt_id][row.second] for row in rows]),
            for_first_M=numbers([first for first, _, _ in votes]),
            for_second_M=numbers([second for _, second, _ in votes]),
            ties_M=numbers([ties for _, _, ties in votes]),
            prob_first_M=numbers([row.prob_first for row in rows]),
            label_M=numbers([row.label for row in rows]),
            remarks=(*left_out, *remarks),
        )


def show(names: Mapping[str, object] | list[str]) -> str:
    """Names in an error, "none" if there are none."""
    return ", ".join(map(str, names)) or "none"
