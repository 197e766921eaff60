"""Checkpoint against checkpoint, by the same code as language: a start state is what a prompt is there.

Every policy plays one episode from each of the same start states; the preference judges the episodes of two policies
from one start state. What that costs is measuring, not training, and is not in `cost/comparisons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sppo_lightning.control.episodes import Actor, play_episodes
from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.control.preferences import Preference, verdict
from sppo_lightning.control.rounds import episodes_bytes, read_episodes
from sppo_lightning.control.task import Task
from sppo_lightning.evaluation.contestants import Contestant, Member
from sppo_lightning.evaluation.gaps import Gap, checkpoint_gap
from sppo_lightning.evaluation.head_to_head import HeadToHead, head_to_head_of
from sppo_lightning.evaluation.payoff import Payoff
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.functional.trajectory_preferences import Trajectory
from sppo_lightning.io.files import atomic_write


def evaluation_episodes(
    file: Path, task: Task, actor: ControlPolicy | Actor, name: str, num_episodes: int, seed: int
) -> list[Trajectory]:
    """A policy's episodes from the evaluation's start states: read if they are on disk, played and kept if not.

    Args:
        file: where they lie.
        task: where to play.
        actor: the policy.
        name: its name, of which the noise of its actions depends; start states are the same for all.
        num_episodes: B.
        seed: the run's.
    """
    if not file.is_file():
        played = play_episodes(
            task,
            actor,
            names=[f"{name}/{episode}" for episode in range(num_episodes)],
            seeds=[evaluation_seed(seed, episode) for episode in range(num_episodes)],
            noise=name,
        )
        with atomic_write(file, kind="evaluation") as temporary:
            temporary.write_bytes(episodes_bytes(played))
    return read_episodes(file, name)


def evaluation_seed(seed: int, episode: int) -> int:
    """What the evaluation's `episode`-th episode of every policy is played with."""
    return derive_seed(seed, "evaluation", episode)


def judge_policies(episodes: Mapping[str, Sequence[Trajectory]], preference: Preference) -> Array:
    """[B, M, M] P(row beats column) at each of B start states, 1/2 on the diagonal.

    Args:
        episodes: policy name -> its B episodes.
        preference: the judge.
    """
    played = list(episodes.values())
    rates_BMM = np.full((len(played[0]), len(played), len(played)), 0.5)
    for b in range(len(played[0])):
        for i in range(len(played)):
            for j in range(i):
                rates_BMM[b, i, j] = verdict(preference, played[i][b], played[j][b])
                rates_BMM[b, j, i] = 1 - rates_BMM[b, i, j]
    return rates_BMM


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the policies of a run stand against each other.

    Attributes:
        match: everybody against everybody.
        gap: of the newest policy, from stored policies.
        mixture_gap: of all policies of the run drawn with equal chances, which is what SPO's guarantee is about.
    """

    match: HeadToHead
    gap: Gap
    mixture_gap: Gap


def standing(names: Sequence[str], rates_BMM: Array) -> Standing:
    """What follows from the verdicts between M policies, the newest last.

    Args:
        names: of the policies, at least two.
        rates_BMM: see `judge_policies`.
    """
    members = [Member(name=name, source=name) for name in names]
    payoff = Payoff(
        members=members,
        win_rates_BMM=rates_BMM,
        # All episodes have the horizon's length: there is nothing to control for.
        length_controlled_MM=rates_BMM.mean(axis=0),
        length_slope=0.0,
    )
    return Standing(
        match=head_to_head_of([Contestant.of(member) for member in members], payoff),
        gap=checkpoint_gap(rates_BMM[:, :-1, -1], names[:-1]),
        mixture_gap=checkpoint_gap(rates_BMM.mean(axis=2), names),
    )
