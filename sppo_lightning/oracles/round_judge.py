"""How one round asks its judge: about which pairs, and what becomes of prompts that cannot be judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from sppo_lightning.errors import OracleError
from sppo_lightning.functional.pair_design import Entry, opponents_order, self_play_order, share_of, still_open
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.composed import ComposedOracle
from sppo_lightning.oracles.desk import Desk
from sppo_lightning.oracles.pairwise import AskedPairs, PairwiseOracle
from sppo_lightning.oracles.ragged import check_matrix, judged_mask
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


class RoundJudge(ComposedOracle):
    """Asks another oracle about some of the pairs, and takes out prompts that it has no verdict on.

    Which pairs is a function of seed and prompt. Each pair of a prompt is equally likely to be one of them, so a win
    rate over the judged opponents estimates the one over all without bias; what was not judged is marked so.

    A prompt is quarantined where the oracle has no verdict on half of the pairs that it was asked about, or more:
    nothing of it counts as judged, not even the diagonal.

    Args:
        oracle: who judges.
        prompts: those of the round, in its order; the share is kept to over all of them.
        seed: of the choice of pairs, different in each round.
        share: of a prompt's pairs, in (0, 1].
        certainty: pairs of candidates are judged until the best and the worst are known with this certainty, then no
            more (see `functional.pair_design.still_open`). Not set: all pairs of the share.
        only_finished: the best and the worst are chosen among responses that were not truncated.
        max_quarantined: as a share of `prompts`; with more, judging stops.
        quarantined: ids of prompts that were quarantined before a kill.
        desk: where the oracle's answers come from, if they cost something.
    """

    def __init__(
        self,
        oracle: PreferenceOracle,
        prompts: Sequence[Prompt],
        *,
        seed: int,
        share: float = 1.0,
        certainty: float | None = None,
        only_finished: bool = True,
        max_quarantined: float = 1.0,
        quarantined: Sequence[str] = (),
        desk: Desk | None = None,
    ) -> None:
        self.oracle = oracle
        self.prompts, self.seed = prompts, seed
        self.share, self.certainty, self.only_finished = share, certainty, only_finished
        self.max_quarantined = max_quarantined
        self._index = {prompt.prompt_id: index for index, prompt in enumerate(prompts)}
        self._quarantined = dict.fromkeys(quarantined)
        self.desk = desk
        self.gives_scores = oracle.gives_scores and not self._leaves_out

    @property
    def name(self) -> str:
        """The oracle's: its verdicts lie under its name, however they were chosen."""
        return self.oracle.name

    @property
    def members(self) -> Mapping[str, PreferenceOracle]:
        """The oracle itself."""
        return {self.oracle.name: self.oracle}

    def asking(self, members: Mapping[str, PreferenceOracle]) -> Self:
        """The same choice of pairs for another oracle."""
        (oracle,) = members.values()
        return type(self)(
            oracle,
            self.prompts,
            seed=self.seed,
            share=self.share,
            certainty=self.certainty,
            only_finished=self.only_finished,
            max_quarantined=self.max_quarantined,
            quarantined=list(self._quarantined),
            desk=self.desk,
        )

    def measured(self) -> dict[str, float]:
        """What the oracle measured, and what it cost."""
        return super().measured() | ({} if self.desk is None else self.desk.measured())

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """The oracle as it is in that round."""
        return self.asking({self.name: self.oracle.for_round(earlier)})

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Judges what is to be judged.

        Raises:
            OracleError: too many prompts cannot be judged; names the first ones.
        """
        if self._leaves_out:
            matrix, asked_BKJ = self._some(candidates, opponents)
        else:
            matrix = self.oracle.compare(candidates, opponents)
            check_matrix(self.name, matrix, candidates, opponents)
            asked_BKJ = judged_mask(candidates, opponents or candidates)
        asked_BKJ = asked_BKJ & AskedPairs(candidates, opponents).different_BKJ
        return self._without_unjudgeable(matrix, asked_BKJ, [prompt.prompt_id for prompt in candidates.prompts])

    @property
    def _leaves_out(self) -> bool:
        return self.share < 1 or self.certainty is not None

    # --- a part of the pairs -----------------------------------------------------------------------------------------

    def _some(self, candidates: Candidates, opponents: Candidates | None) -> tuple[PreferenceMatrix, Tensor]:
        """The matrix, and which of its entries were asked for."""
        pairs = AskedPairs(candidates, opponents)
        verdicts: list[float | None] = [None] * len(pairs.unique)
        asked: set[int] = set()
        wanted_BKJ = torch.zeros_like(pairs.exists_BKJ)
        waiting = [self._chosen(pairs, b) for b in range(len(candidates))]
        in_steps = self.certainty is not None and pairs.self_play
        # The first K - 1 connect all responses.
        step = [entries[: K - 1] if in_steps else entries for entries, K in zip(waiting, _num(pairs), strict=True)]
        matrix = pairs.matrix(verdicts, wanted_BKJ)
        while any(step):
            for b, entries in enumerate(step):
                for i, j in entries:
                    wanted_BKJ[b, i, j] = True
                    if pairs.self_play:
                        wanted_BKJ[b, j, i] = True
                waiting[b] = [entry for entry in waiting[b] if entry not in entries]
            new = [pair for pair in pairs.needed(wanted_BKJ) if pair not in asked]
            for pair, verdict in zip(new, self._ask(pairs, new), strict=True):
                verdicts[pair] = verdict
            asked |= set(new)
            matrix = pairs.matrix(verdicts, wanted_BKJ)
            step = [self._open(candidates, matrix, b, entries) for b, entries in enumerate(waiting)] if in_steps else []
        return matrix, wanted_BKJ

    def _chosen(self, pairs: AskedPairs, b: int) -> list[Entry]:
        """A prompt's pairs that may be judged, in the order in which they are worth it."""
        prompt_id, K, J = pairs.candidates.prompts[b].prompt_id, _num(pairs)[b], pairs.columns.num_candidates[b]
        seed = derive_seed(self.seed, "pairs", prompt_id)
        order = self_play_order(K, seed) if pairs.self_play else opponents_order(K, J, seed)
        limit = share_of(self.share, len(order), self._index[prompt_id])
        # Against opponents nothing stands on a diagonal: with no entry at all a prompt would look quarantined.
        return order[: limit if pairs.self_play else max(limit, 1)]

    def _open(self, candidates: Candidates, matrix: PreferenceMatrix, b: int, waiting: list[Entry]) -> list[Entry]:
        assert matrix.judged_BKJ is not None
        assert self.certainty is not None
        K = candidates.num_candidates[b]
        trainable = [reason == "stop" or not self.only_finished for reason in candidates.finish_reasons[b]]
        return still_open(
            matrix.probs_BKJ[b, :K, :K], matrix.judged_BKJ[b, :K, :K], torch.tensor(trainable), waiting, self.certainty
        )

    def _ask(self, pairs: AskedPairs, numbers: list[int]) -> list[float | None]:
        if not numbers:
            return []
        if isinstance(self.oracle, PairwiseOracle):
            return self.oracle.judge([pairs.unique[number] for number in numbers])
        matrix = self.oracle.compare(*pairs.alone(numbers))
        assert matrix.judged_BKJ is not None
        return [
            float(prob) if judged else None
            for prob, judged in zip(matrix.probs_BKJ[:, 0, 0], matrix.judged_BKJ[:, 0, 0], strict=True)
        ]

    # --- quarantine --------------------------------------------------------------------------------------------------

    def check_quarantined(self, prompt_ids: Sequence[str]) -> None:
        """Holds the round to its limit.

        Args:
            prompt_ids: those quarantined, over all processes if this is to hold over all of them.

        Raises:
            OracleError: there are too many; names the first ones.
        """
        if len(prompt_ids) > self.max_quarantined * len(self.prompts):
            raise OracleError(quarantine_message(self.name, prompt_ids, len(self.prompts)))

    def _without_unjudgeable(
        self, matrix: PreferenceMatrix, asked_BKJ: Tensor, prompt_ids: Sequence[str]
    ) -> PreferenceMatrix:
        assert matrix.judged_BKJ is not None
        if self.oracle.chooses_pairs:
            return matrix
        failed_B = (asked_BKJ & ~matrix.judged_BKJ).sum((1, 2))
        lost_B = (failed_B > 0) & (2 * failed_B >= asked_BKJ.sum((1, 2)))
        if not bool(lost_B.any()):
            return matrix
        self._quarantined |= dict.fromkeys(prompt_ids[b] for b in lost_B.nonzero().flatten().tolist())
        self.check_quarantined(list(self._quarantined))
        return replace(matrix, judged_BKJ=matrix.judged_BKJ & ~lost_B[:, None, None])


def quarantine_message(judge: str, prompt_ids: Sequence[str], num_prompts: int) -> str:
    """What to do when too many prompts of a round cannot be judged."""
    first = ", ".join(prompt_ids[:3]) + (", ..." if len(prompt_ids) > 3 else "")
    return (
        f"{judge} has no verdict on half of the pairs or more of {len(prompt_ids)} of the round's {num_prompts} "
        f"prompts ({first}); data.judging.max_quarantined does not allow so many. What was judged is kept. See why it "
        "gave none; then give the same command with --data.judging.retry_failed true, which asks it again, or with a "
        "higher max_quarantined, which trains without them"
    )


def _num(pairs: AskedPairs) -> list[int]:
    return pairs.candidates.num_candidates
