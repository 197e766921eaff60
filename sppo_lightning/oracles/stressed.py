"""The socket for wrappers that spoil a judge's verdicts pair by pair, to see what a run makes of a bad judge."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.composed import ComposedOracle
from sppo_lightning.oracles.ragged import check_same_prompts
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


class StressedOracle(ComposedOracle):
    """Another oracle's verdicts, changed as a function of the pair's content alone: a kill or a fork changes nothing.

    P + P' = 1 holds, equal texts keep 1/2, and scores are not passed on: they would tell the unspoilt truth.
    """

    oracle: PreferenceOracle

    @property
    def name(self) -> str:
        """Says both what it is and whose verdicts it changes."""
        return f"{type(self).__name__}-{self.oracle.name}"

    @property
    def members(self) -> Mapping[str, PreferenceOracle]:
        """The oracle itself."""
        return {self.oracle.name: self.oracle}

    def asking(self, members: Mapping[str, PreferenceOracle]) -> Self:
        """The same change of another oracle's verdicts."""
        other = copy.copy(self)
        (other.oracle,) = members.values()
        return other

    @abstractmethod
    def changed(self, prob: float, prompt: Prompt, first: str, second: str) -> float:
        """The verdict that is given instead.

        Args:
            prob: P(first beats second).
            prompt: what is answered.
            first: the text that comes first in alphabetical order, so that each pair is changed once.
            second: the other one.
        """

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Asks the oracle and changes its answer."""
        columns = check_same_prompts(candidates, opponents)
        verdicts = self.oracle.compare(candidates, opponents)
        assert verdicts.judged_BKJ is not None  # the carrier fills it in
        probs_BKJ = verdicts.probs_BKJ.double()
        for b, i, j in verdicts.judged_BKJ.nonzero().tolist():
            row, column = candidates.texts[b][i], columns.texts[b][j]
            if row == column or (opponents is None and j < i and bool(verdicts.judged_BKJ[b, j, i])):
                continue
            prompt, prob = candidates.prompts[b], float(probs_BKJ[b, i, j])
            if row < column:
                prob = self.changed(prob, prompt, row, column)
            else:
                prob = 1 - self.changed(1 - prob, prompt, column, row)
            probs_BKJ[b, i, j] = prob
            if opponents is None:
                probs_BKJ[b, j, i] = 1 - prob
        return PreferenceMatrix(
            probs_BKJ=probs_BKJ.float(),
            judged_BKJ=verdicts.judged_BKJ,
            self_play=opponents is None,
            prompt_ids=verdicts.prompt_ids,
        )
