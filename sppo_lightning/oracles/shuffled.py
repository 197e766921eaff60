"""The control: an oracle's verdicts given to the wrong candidates."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.composed import ComposedOracle
from sppo_lightning.oracles.ragged import check_same_prompts
from sppo_lightning.types import Candidates, PreferenceMatrix


class Shuffled(ComposedOracle):
    """Another oracle's verdicts with the candidates of each prompt permuted at random. Nothing can be learnt from it.

    The permutation is uniform and does not depend on what the responses say, so every candidate's expected win rate is
    the same. The verdicts keep their distribution: whatever a run gains with this oracle, it gains from something other
    than preferences (a leak, a length effect, luck). With opponents, their verdicts are permuted too. Responses with
    equal token ids still get 1/2.

    Args:
        oracle: whose verdicts are shuffled.
        seed: of the permutations. The same seed and the same responses, in the same order, give the same permutation.
    """

    judges_pairs_alone = False

    def __init__(self, oracle: PreferenceOracle, seed: int = 0) -> None:
        self.oracle = oracle
        self.gives_scores = oracle.gives_scores
        self.seed = seed

    @property
    def name(self) -> str:
        """Says both what it is and whose verdicts it shuffles."""
        return f"Shuffled-{self.oracle.name}"

    @property
    def members(self) -> Mapping[str, PreferenceOracle]:
        """The oracle itself."""
        return {self.oracle.name: self.oracle}

    def asking(self, members: Mapping[str, PreferenceOracle]) -> Self:
        """The same permutations of another oracle's verdicts."""
        other = copy.copy(self)
        (other.oracle,) = members.values()
        return other

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Asks the oracle and permutes its answer; each prompt's responses stay among themselves."""
        columns = check_same_prompts(candidates, opponents)
        verdicts = self.oracle.compare(candidates, opponents)
        assert verdicts.judged_BKJ is not None  # the carrier fills it in
        probs_BKJ, judged_BKJ = verdicts.probs_BKJ.clone(), verdicts.judged_BKJ.clone()
        scores_BK = None if verdicts.scores_BK is None else verdicts.scores_BK.clone()
        for b in range(len(candidates)):
            rows = self._permutation(candidates, b, probs_BKJ.shape[1])
            cols = rows if opponents is None else self._permutation(columns, b, probs_BKJ.shape[2])
            probs_BKJ[b] = probs_BKJ[b][rows][:, cols]
            judged_BKJ[b] = judged_BKJ[b][rows][:, cols]
            if scores_BK is not None:
                scores_BK[b] = scores_BK[b][rows]
            for i, ids in enumerate(candidates.token_ids[b]):
                for j, other in enumerate(columns.token_ids[b]):
                    if list(ids) == list(other):
                        probs_BKJ[b, i, j] = 0.5
        return PreferenceMatrix(
            probs_BKJ=probs_BKJ,
            judged_BKJ=judged_BKJ,
            scores_BK=scores_BK,
            self_play=opponents is None,
            prompt_ids=verdicts.prompt_ids,
        )

    def _permutation(self, candidates: Candidates, b: int, width: int) -> Tensor:
        # A hash, not a running generator: the answer must not depend on what else was judged before.
        responses = [list(ids) for ids in candidates.token_ids[b]]
        key = json.dumps([self.seed, candidates.prompts[b].prompt_id, responses])
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
        order = torch.arange(width)
        order[: len(responses)] = torch.randperm(len(responses), generator=generator)
        return order
