"""The training loader: one batch is one global step, and it can be entered anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from sppo_lightning.selfplay.dataset import GlobalBatch, RoundDataset


class StepLoader:
    """Yields this rank's part of each global step of one epoch.

    A plain DataLoader restarts at batch 0 after a mid-epoch resume (Lightning #21938, #21492). This one carries its
    position. Its length is always that of the full epoch, and its iterator is lazy, because Lightning makes the
    iterator before it knows where to resume.

    Args:
        dataset: the round.
        epoch: epoch within the round.
        global_batch_prompts: prompts in one global step, over all ranks.
        max_pack_tokens: tokens in one pack.
        rank: this process.
        world_size: number of processes.
        packed: the policy takes rows without padding.
    """

    def __init__(
        self,
        dataset: RoundDataset,
        *,
        epoch: int,
        global_batch_prompts: int,
        max_pack_tokens: int,
        rank: int,
        world_size: int,
        packed: bool = True,
    ) -> None:
        self.dataset = dataset
        self._plan = dataset.step_plan(epoch, global_batch_prompts)
        self._max_pack_tokens, self._rank, self._world_size = max_pack_tokens, rank, world_size
        self._packed = packed
        self._position = 0
        self._start = 0

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[GlobalBatch]:
        start, self._start = self._start, 0
        for step in range(start, len(self._plan)):
            self._position = step + 1
            yield self.dataset.batch(
                self._plan[step],
                rank=self._rank,
                world_size=self._world_size,
                max_pack_tokens=self._max_pack_tokens,
                packed=self._packed,
            )

    def state_dict(self) -> dict[str, int]:
        """The number of steps already handed out; 0 at an epoch's end, which is the start of the next one.

        The next epoch may be another round's and have fewer steps, so it could not tell the end of this one.
        """
        return {"position": self._position % len(self._plan)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues behind the steps already taken."""
        self._position = self._start = state["position"]
