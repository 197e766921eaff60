"""The judged payoff between policies: win rates prompt by prompt, and what is left of them at equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sppo_lightning.evaluation.contestants import Contestant, Member
from sppo_lightning.evaluation.verdicts import Samples, VerdictBank
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.length_control import length_controlled_win_rates


@dataclass(frozen=True, kw_only=True)
class Payoff:
    """Verdicts between M policies over B prompts.

    Attributes:
        members: the policies.
        win_rates_BMM: P(row beats column) at each prompt, 1/2 on the diagonal; NaN where it was not judged.
        length_controlled_MM: win rates at equal length by our own model, see `functional.length_control`.
        length_slope: that model's slope.
    """

    members: Sequence[Member]
    win_rates_BMM: Array
    length_controlled_MM: Array
    length_slope: float


def judge_payoff(
    members: Sequence[Member],
    verdicts: VerdictBank,
    num_samples: int,
    pairs: Sequence[tuple[int, ...]] | None = None,
) -> Payoff:
    """Judges pairs of policies, each once.

    Args:
        members: M policies.
        verdicts: the judge and its prompts.
        num_samples: responses of each policy to each prompt.
        pairs: the places in `members` of those who meet, the smaller first. Not set: all.

    Raises:
        EngineError, OracleError: generation or judging failed, or there is no verdict at all on a pair of policies;
            what is whole is kept.
    """
    M = len(members)
    samples = [Samples(member=member, count=num_samples) for member in members]
    meeting = list(combinations(range(M), 2) if pairs is None else pairs)
    verdicts.judge((samples[i], samples[j]) for i, j in meeting)
    win_rates_BMM = np.full((verdicts.num_prompts, M, M), np.nan)
    win_rates_BMM[:, np.arange(M), np.arange(M)] = 0.5
    comparisons = _Comparisons()
    for i, j in meeting:
        matrix = verdicts.compare(samples[i], samples[j])
        assert matrix.judged_BKJ is not None
        probs_BKJ, judged_BKJ = matrix.probs_BKJ.double().numpy(), matrix.judged_BKJ.numpy()
        count_B = judged_BKJ.sum(axis=(1, 2))
        sum_B = np.where(judged_BKJ, probs_BKJ, 0.0).sum(axis=(1, 2))
        win_rates_BMM[:, i, j] = np.divide(sum_B, count_B, out=np.full(len(sum_B), np.nan), where=count_B > 0)
        win_rates_BMM[:, j, i] = 1 - win_rates_BMM[:, i, j]
        comparisons.add(i, j, probs_BKJ, _log_length_ratios(verdicts, members[i], members[j], num_samples), judged_BKJ)
    controlled_MM, slope = comparisons.length_controlled(M)
    return Payoff(members=members, win_rates_BMM=win_rates_BMM, length_controlled_MM=controlled_MM, length_slope=slope)


def _log_length_ratios(verdicts: VerdictBank, rows: Member, columns: Member, num_samples: int) -> Array:
    """[B, K, J] log of the row response's characters over the column's."""
    lengths = []
    for member in (rows, columns):
        answers = verdicts.responses.responses(Contestant.of(member), num_samples, num_prompts=verdicts.num_prompts)
        lengths.append(np.log([[len(text) + 1 for text in texts] for texts in answers.texts]))
    return lengths[0][:, :, None] - lengths[1][:, None, :]


class _Comparisons:
    """Single comparisons of all pairs, collected for the length model."""

    def __init__(self) -> None:
        self._pairs: list[tuple[int, int]] = []
        self._parts: list[tuple[Array, Array, np.ndarray, Array]] = []

    def add(self, i: int, j: int, probs_BKJ: Array, ratios_BKJ: Array, judged_BKJ: np.ndarray) -> None:
        # A prompt is one observation, whatever the number of its comparisons.
        weights_BKJ = judged_BKJ / np.maximum(judged_BKJ.sum(axis=(1, 2), keepdims=True), 1)
        pair = np.full(int(judged_BKJ.sum()), len(self._pairs))
        self._pairs.append((i, j))
        self._parts.append((probs_BKJ[judged_BKJ], ratios_BKJ[judged_BKJ], pair, weights_BKJ[judged_BKJ]))

    def length_controlled(self, num_members: int) -> tuple[Array, float]:
        matrix = np.full((num_members, num_members), np.nan)
        np.fill_diagonal(matrix, 0.5)
        if not self._parts:
            return matrix, 0.0
        probs_C, ratios_C, pair_C, weights_C = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        rates, slope = length_controlled_win_rates(probs_C, ratios_C, pair_C, weights_C, len(self._pairs))
        for (i, j), rate in zip(self._pairs, rates, strict=True):
            matrix[i, j], matrix[j, i] = rate, 1 - rate
        return matrix, slope
