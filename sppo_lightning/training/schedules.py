"""The socket for schedules: what a round consists of, as a block of Lightning epochs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where an epoch of the run stands.

    Attributes:
        round: t, 0-based.
        epoch: epoch within the round, 0-based.
        last_epoch: whether the round ends with this epoch.
    """

    round: int
    epoch: int
    last_epoch: bool

    @property
    def first_epoch(self) -> bool:
        """Whether the round begins with this epoch."""
        return self.epoch == 0


class Schedule(ABC):
    """Maps the run's epochs to rounds. What happens in an epoch is never decided in `training_step`."""

    @abstractmethod
    def epochs_in_round(self, epochs_per_round: int) -> int:
        """Lightning epochs that one round takes when its data are passed `epochs_per_round` times."""

    def position(self, epoch: int, epochs_per_round: int) -> Position:
        """The place of the run's `epoch`-th epoch, rounds counted from 0."""
        block = self.epochs_in_round(epochs_per_round)
        return Position(round=epoch // block, epoch=epoch % block, last_epoch=epoch % block == block - 1)


class PlayThenTrain(Schedule):
    """Play the round with pi_t, then train pi_{t+1} on it for `epochs_per_round` epochs (SPPO, iterative DPO, ...)."""

    def epochs_in_round(self, epochs_per_round: int) -> int:
        """See `Schedule`."""
        return epochs_per_round
