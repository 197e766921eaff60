"""Judges that are a function in a file of the user's."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sppo_lightning.errors import OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.pairwise import Pair, PairwiseOracle
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask
from sppo_lightning.oracles.user_function import UserFunction
from sppo_lightning.types import Candidates, PreferenceMatrix

_MAX_SHOWN = 60
_TOLERANCE = 1e-4


class Function(PairwiseOracle):
    """A Python function of your own that judges pairs: `prefer(pairs)` returns P(first beats second) for each.

    A pair has `prompt` (its `text`, `messages` and `metadata`), `first` and `second`. Both orders are asked and
    averaged. None means that there is no verdict: the pair stays unjudged. The file is run in this process, with all
    its rights: use files that you trust. The function gets copies, it cannot change what is trained on.

    Example:
        def prefer(pairs):
            return [0.9 if len(pair.first) < len(pair.second) else 0.1 for pair in pairs]

    Args:
        path: `my_judge.py:prefer`, the file and the function in it.

    Raises:
        ConfigError: there is no such file or function, or the file fails when it is run.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._function = UserFunction(path)
        self.decides = {"path": self._function.content}

    @property
    def name(self) -> str:
        """The function's name: two functions are two oracles."""
        return f"Function-{self._function.name}"

    def prefer_first(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """Asks the function.

        Raises:
            OracleError: it raised, or answered with something that is not one probability a pair.
        """
        shown = [Pair(prompt=copy.deepcopy(pair.prompt), first=pair.first, second=pair.second) for pair in pairs]
        answers = _listed(self._function(shown))
        if answers is None or len(answers) != len(pairs):
            given = "no list" if answers is None else f"{len(answers)} verdicts"
            raise OracleError(
                f"{self._function}: returned {given} for {len(pairs)} pairs; it must return one number or None for each"
            )
        return [
            None if answer is None else _probability(answer, f"{self._function}: pair {place}, prompt {_id(pair)}")
            for place, (answer, pair) in enumerate(zip(answers, pairs, strict=True))
        ]


class MatrixFunction(PreferenceOracle):
    """A Python function of your own that judges all responses to a prompt at once.

    `judge(prompt, rows, columns)` returns a nested list, array or tensor, [rows][columns], of P(row beats column). In
    self-play `columns` are the same texts as `rows`: there the diagonal is 1/2, and P + P' must be 1. The file is run
    in this process, with all its rights: use files that you trust.

    Example:
        def judge(prompt, rows, columns):
            return [[0.5 + 0.4 * ((len(r) < len(c)) - (len(r) > len(c))) for c in columns] for r in rows]

    Args:
        path: `my_judge.py:judge`, the file and the function in it.

    Raises:
        ConfigError: there is no such file or function, or the file fails when it is run.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._function = UserFunction(path)
        self.decides = {"path": self._function.content}

    @property
    def name(self) -> str:
        """The function's name: two functions are two oracles."""
        return f"MatrixFunction-{self._function.name}"

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Asks the function prompt by prompt.

        Raises:
            OracleError: it raised, or answered with something that is not a preference matrix.
        """
        columns = check_same_prompts(candidates, opponents)
        judged_BKJ = judged_mask(candidates, columns)
        probs_BKJ = torch.full(judged_BKJ.shape, 0.5, dtype=torch.float64)
        for b, (prompt, rows, cols) in enumerate(zip(candidates.prompts, candidates.texts, columns.texts, strict=True)):
            answer = self._function(copy.deepcopy(prompt), list(rows), list(cols))
            where = f"{self._function}: prompt {prompt.prompt_id}"
            probs_KJ = _matrix(answer, len(rows), len(cols), where)
            for i, row in enumerate(rows):
                for j, column in enumerate(cols):
                    if row == column:
                        probs_KJ[i][j] = 0.5
                    elif opponents is None and abs(probs_KJ[i][j] + probs_KJ[j][i] - 1) > _TOLERANCE:
                        raise OracleError(
                            f"{where}: P({i} beats {j}) = {probs_KJ[i][j]:.6g} and P({j} beats {i}) = "
                            f"{probs_KJ[j][i]:.6g} must sum to 1. Average both in your function, or write one for "
                            "single pairs and use Function, which asks both orders and averages them"
                        )
            probs_BKJ[b, : len(rows), : len(cols)] = torch.tensor(probs_KJ, dtype=torch.float64)
        return PreferenceMatrix(
            probs_BKJ=probs_BKJ.float(),
            judged_BKJ=judged_BKJ,
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )


def _matrix(answer: Any, K: int, J: int, where: str) -> list[list[float]]:
    rows = [_listed(row) for row in _listed(answer) or []]
    if len(rows) != K or any(row is None or len(row) != J for row in rows):
        shape = f"{len(rows)} rows of {sorted({len(row) for row in rows if row is not None}) or 'no'} columns"
        raise OracleError(f"{where}: returned {shape}; it must return {K} rows of {J} columns")
    return [
        [_probability(entry, f"{where}, entry [{i}][{j}]") for j, entry in enumerate(row or [])]
        for i, row in enumerate(rows)
    ]


def _listed(answer: Any) -> list[Any] | None:
    """A list, tuple, iterator, array or tensor as a list; None for what is none of them."""
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if isinstance(answer, list | tuple | Iterator):
        return list(answer)
    return None


def _probability(answer: Any, where: str) -> float:
    number = answer.item() if hasattr(answer, "item") else answer
    if isinstance(number, bool | str | bytes) or not isinstance(number, int | float):
        raise OracleError(f"{where}: {_shown(answer)} is a {type(answer).__name__}, not a probability")
    if math.isnan(number) or not 0 <= number <= 1:
        raise OracleError(f"{where}: {_shown(answer)} is not a probability; it must lie in [0, 1]")
    return float(number)


def _shown(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _id(pair: Pair) -> str:
    return pair.prompt.prompt_id
