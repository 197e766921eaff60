"""Matrices of votes: an .npz file with one K x K matrix a prompt."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sppo_lightning.errors import DataError
from sppo_lightning.io.votes import Comparison, Votes, VotesBuilder, show

WINS = ("wins", "wins_BKK", "counts")
PROBS = ("P", "probs", "probs_BKJ")
NAMES = ("models", "responses")
KNOWN = (*WINS, *PROBS, *NAMES, "votes", "ties", "prompt_ids", "lengths")
# Shares such as 1/3 in float32, and P + P^T in `types.PreferenceMatrix`.
_ROUNDING = 1e-4


def read_votes_npz(path: Path) -> Votes:
    """Reads matrices [B, K, K], or [K, K] for one prompt, of row against column.

    - `wins` (or `wins_BKK`, `counts`): votes for the row, a tie counting half for both; or whole numbers with the tied
      votes beside them as `ties`. Or
    - `P` (or `probs`): the share of votes for the row, with their number as `votes`; without `votes` they are the
      judge's probabilities.

    `models` [K] or `responses` [K] or [B, K] names the responses, `prompt_ids` [B] the prompts, `lengths` [B, K] says
    how long the responses are. Which response was shown first is not in such a file.

    A half vote is read as one tie; two ties of one pair cannot be told from a win and a loss.

    Raises:
        DataError: the file is not plain numbers, or an array contradicts this. It names array, prompt and pair.
    """
    arrays = _load(path)
    wins, probs = (next((name for name in names if name in arrays), None) for names in (WINS, PROBS))
    if wins is None and probs is None:
        raise DataError(
            f"{path}: has neither 'wins' nor 'P', only {show(list(arrays))}; save np.savez(path, wins=...) with votes "
            "[prompts, K, K] for row over column"
        )
    if wins is not None and (probs is not None or "votes" in arrays):
        raise DataError(f"{path}: has {wins!r} and {probs or 'votes'!r}; give wins, or P with votes")
    matrix_BKK = _matrix(path, arrays, wins or probs or "")
    B, K = matrix_BKK.shape[:2]
    prompt_ids = _names(path, arrays, ("prompt_ids",), [(B,)]) or [str(b) for b in range(B)]
    if len(set(prompt_ids)) < B:
        raise DataError(f"{path}: prompt_ids holds an id twice")
    names = _names(path, arrays, NAMES, [(K,), (B, K)]) or [str(k) for k in range(K)]
    names_BK = [names] * B if isinstance(names[0], str) else names
    for prompt_id, row in zip(prompt_ids, names_BK, strict=True):
        if len(set(row)) < K:
            raise DataError(f"{path}: two responses of prompt {prompt_id!r} have one name; they are {show(list(row))}")
    if wins is not None:
        _refuse_diagonal(path, matrix_BKK, prompt_ids)
    lengths_BK = _lengths(path, arrays, (B, K))

    reader = _Cells(path, arrays, matrix_BKK, wins)
    builder = VotesBuilder(str(path))
    for b in range(B):
        for i in range(K):
            for j in range(i + 1, K):
                where = f"{path}, prompt {prompt_ids[b]!r}, pair ({i}, {j})"
                verdict = reader.read(where, b, i, j)
                if verdict is None:
                    builder.leave_out("without votes (pairs that nobody compared)")
                    continue
                builder.add(
                    where,
                    Comparison(
                        prompt_id=prompt_ids[b],
                        first=names_BK[b][i],
                        second=names_BK[b][j],
                        votes=None if isinstance(verdict, float) else verdict,
                        prob_first=verdict if isinstance(verdict, float) else None,
                        first_length=None if lengths_BK is None else lengths_BK[b][i],
                        second_length=None if lengths_BK is None else lengths_BK[b][j],
                    ),
                )
    unused = sorted(arrays.keys() - {*KNOWN})
    return builder.build(order_known=False, remarks=(f"arrays not used: {show(unused)}",) if unused else ())


def _load(path: Path) -> dict[str, NDArray]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise DataError(f"{path}: is one array without a name; save it as np.savez(path, wins=...)")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an .npz file of plain numbers ({error})") from error


def _numbers(path: Path, arrays: dict[str, NDArray], name: str) -> NDArray[np.float64]:
    if arrays[name].dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} must hold numbers, not {arrays[name].dtype}")
    return arrays[name].astype(np.float64)


def _matrix(path: Path, arrays: dict[str, NDArray], name: str) -> NDArray[np.float64]:
    numbers = _numbers(path, arrays, name)
    numbers = numbers[None] if numbers.ndim == 2 else numbers
    if numbers.ndim != 3 or numbers.shape[1] != numbers.shape[2] or numbers.shape[0] == 0 or numbers.shape[1] < 2:
        raise DataError(
            f"{path}: {name} must be [prompts, K, K] with K of at least 2, got shape {list(arrays[name].shape)}"
        )
    return numbers


def _refuse_diagonal(path: Path, wins_BKK: NDArray[np.float64], prompt_ids: list) -> None:
    bad = np.argwhere(np.nan_to_num(np.diagonal(wins_BKK, axis1=1, axis2=2)) != 0)
    if len(bad):
        b, k = bad[0]
        raise DataError(f"{path}, prompt {prompt_ids[b]!r}: has votes for response {k} against itself; write 0 there")


def _names(path: Path, arrays: dict[str, NDArray], names: tuple[str, ...], shapes: list[tuple[int, ...]]) -> list:
    for name in names:
        if name in arrays:
            found = arrays[name]
            if found.dtype.kind not in "iuU" or found.shape not in shapes:
                expected = " or ".join(str(list(shape)) for shape in shapes)
                raise DataError(
                    f"{path}: {name} must be {expected} names, got shape {list(found.shape)} of {found.dtype}"
                )
            return found.astype(str).tolist()
    return []


def _lengths(path: Path, arrays: dict[str, NDArray], shape: tuple[int, int]) -> list[list[float]] | None:
    if "lengths" not in arrays:
        return None
    lengths = _numbers(path, arrays, "lengths")
    if lengths.shape != shape or not (np.isfinite(lengths) & (lengths >= 0)).all():
        raise DataError(f"{path}: lengths must be {list(shape)} numbers of at least 0, got shape {list(lengths.shape)}")
    return lengths.tolist()


class _Cells:
    """Reads the verdict of one pair: (for row, for column, tied), a probability, or None where nobody voted."""

    def __init__(
        self, path: Path, arrays: dict[str, NDArray], matrix_BKK: NDArray[np.float64], wins: str | None
    ) -> None:
        self.matrix_BKK, self.are_wins = matrix_BKK, wins is not None
        self.ties_BKK, self.votes_BKK = (
            _matrix(path, arrays, name) if name in arrays else None for name in ("ties", "votes")
        )
        for name, other in (("ties", self.ties_BKK), ("votes", self.votes_BKK)):
            if other is not None and other.shape != matrix_BKK.shape:
                raise DataError(
                    f"{path}: {name} has shape {list(other.shape)}, the matrices beside it {list(matrix_BKK.shape)}"
                )
        if self.ties_BKK is not None and not self.are_wins:
            raise DataError(f"{path}: 'ties' goes with 'wins', not with P")

    def read(self, where: str, b: int, i: int, j: int) -> tuple[float, float, float] | float | None:
        row, column = self.matrix_BKK[b, i, j], self.matrix_BKK[b, j, i]
        if self.are_wins:
            ties = 0.0 if self.ties_BKK is None else self._count(where, "ties", self.ties_BKK, b, i, j)
            return self._votes(where, row, column, ties)
        votes = None if self.votes_BKK is None else self._count(where, "votes", self.votes_BKK, b, i, j)
        if votes == 0:
            return None
        if not (0 <= row <= 1 and abs(row + column - 1) <= _ROUNDING):
            raise DataError(
                f"{where}: P must lie in [0, 1] and P[i, j] + P[j, i] must be 1; got {row:.6g} and {column:.6g}"
            )
        if votes is None:
            return float(row)
        doubled = 2 * row * votes
        if abs(doubled - round(doubled)) > 2 * votes * _ROUNDING:
            raise DataError(
                f"{where}: P = {row:.6g} of {votes:g} votes is no whole number of votes or ties; do P and votes belong "
                "together?"
            )
        return self._votes(where, round(doubled) / 2, votes - round(doubled) / 2, 0.0)

    @staticmethod
    def _count(where: str, name: str, counts_BKK: NDArray[np.float64], b: int, i: int, j: int) -> float:
        count, other = counts_BKK[b, i, j], counts_BKK[b, j, i]
        if not (count >= 0 and count == np.floor(count)) or count != other:
            raise DataError(f"{where}: {name} must be equal whole numbers both ways, got {count:g} and {other:g}")
        return float(count)

    def _votes(self, where: str, row: float, column: float, ties: float) -> tuple[float, float, float] | None:
        tie = row % 1  # half a vote
        if not (np.isfinite(row + column) and min(row, column) >= 0 and tie in (0, 0.5) and column % 1 == tie) or (
            tie and self.ties_BKK is not None
        ):
            raise DataError(
                f"{where}: votes must be whole numbers of at least 0, or halves on both sides for a tie; got {row:g} "
                f"and {column:g}"
            )
        if row + column + ties == 0:
            return None
        return float(row - tie), float(column - tie), float(ties + 2 * tie)
