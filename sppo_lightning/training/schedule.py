"""The socket for schedules: what a round consists of, as phases of Lightning epochs.

A phase plays (or takes over what an earlier phase of its round played) and fits one policy. What differs between
methods stands in their phases; nothing of it is decided in `training_step`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sppo_lightning.objectives.base import Objective
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.selfplay.opponents import Opponent

MAIN = "main"
"""The policy the run is about; other policies of a run, such as ONPO's auxiliary one, have names of their own."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One fit of a round.

    Attributes:
        trains: the policy whose next value the fit makes.
        plays: the policy that samples the candidates.
        begins: where the weights start. "in_memory": as they are; "own": the last value of the policy that is trained;
            "round_start": weights, optimiser and learning rate as they were when the round began.
        shares: stages of the round's first phase that are taken over instead of made again.
        keeps: the fitted policy is needed in later rounds, so it is exported beside the main one.
        oracle: judges instead of `data.oracle`.
    """

    trains: str = MAIN
    plays: str = MAIN
    begins: Literal["in_memory", "own", "round_start"] = "in_memory"
    shares: tuple[str, ...] = ()
    keeps: bool = False
    oracle: PreferenceOracle | None = None


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where an epoch of the run stands.

    Attributes:
        round: t, 0-based.
        phase: phase within the round, 0-based.
        epoch: epoch within the phase, 0-based.
        last_epoch: whether the round ends with this epoch.
        phase_ends: whether the phase ends with this epoch.
    """

    round: int
    phase: int = 0
    epoch: int
    last_epoch: bool
    phase_ends: bool

    @property
    def first_epoch(self) -> bool:
        """Whether a phase begins with this epoch."""
        return self.epoch == 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a run that a schedule may contradict.

    Attributes:
        objective: `model.objective`.
        opponent: `data.opponent`.
        epochs_per_round: passes over a phase's data.
        steps_per_epoch: optimiser steps of one pass.
        reset_optimizer: `model.reset_optimizer`.
    """

    objective: Objective
    opponent: Opponent
    epochs_per_round: int
    steps_per_epoch: int
    reset_optimizer: str


class Schedule(ABC):
    """Maps the run's epochs to rounds and their phases, and says which policy a name stands for in each."""

    @property
    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The phases of every round, in order; the last one trains the main policy."""

    def check(self, plan: Plan) -> None:  # noqa: B027 - most schedules take any settings
        """Refuses settings that contradict the schedule, before anything expensive.

        Raises:
            ConfigError: names the key and the value to give.
        """

    @property
    def kept(self) -> list[str]:
        """The policies beside the main one that a round exports."""
        return [phase.trains for phase in self.phases if phase.keeps]

    def anchor_round(self, round_index: int) -> int:
        """The round whose pi_t is the fixed pi_ref in round `round_index`: 0, the start policy."""
        return 0

    def epochs_in_round(self, epochs_per_round: int) -> int:
        """Lightning epochs that one round takes when the data of a phase are passed `epochs_per_round` times."""
        return len(self.phases) * epochs_per_round

    def position(self, epoch: int, epochs_per_round: int) -> Position:
        """The place of the run's `epoch`-th epoch, rounds counted from 0."""
        block = self.epochs_in_round(epochs_per_round)
        phase, inner = divmod(epoch % block, epochs_per_round)
        return Position(
            round=epoch // block,
            phase=phase,
            epoch=inner,
            last_epoch=epoch % block == block - 1,
            phase_ends=inner == epochs_per_round - 1,
        )

    def version(self, name: str, phase_index: int, round_index: int) -> tuple[str, int] | None:
        """The policy that a name stands for in one phase of round t.

        Args:
            name: "previous", "history/j" or "anchor", see `types.ObjectiveInputs.frozen_logps`.
            phase_index: the phase.
            round_index: t.

        Returns:
            the policy's own name and the round in which it is the current one; below 0 where a history does not reach
            so far. None where this schedule has no policy of that name.
        """
        plays = self.phases[phase_index].plays
        if name == "previous":
            return plays, round_index
        if name.startswith("history/"):
            return plays, round_index - int(name.removeprefix("history/"))
        if name == "anchor":
            return MAIN, self.anchor_round(round_index)
        return None


def kind(member: object) -> str:
    """The class that a configuration names; jsonargparse makes subclasses of its own for defaults."""
    return type(member).__name__.removeprefix("LazyInstance_")
