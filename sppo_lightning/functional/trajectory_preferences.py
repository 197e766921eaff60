"""Preferences between two trajectories of a control task, as pure functions: P(first is better than second).

They see whole trajectories, so they may ask for what no reward of single steps can say. Each fulfils
P(a, b) + P(b, a) = 1, with 1/2 for ties. The settings are those of SPO's experiments (arXiv 2401.04056, section 4).

Shape letters: H steps of the horizon, D numbers of an observation, A numbers of an action.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sppo_lightning.functional.seeds import derive_seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """One episode, padded to the horizon.

    Attributes:
        name: such as "round_003/7", for errors.
        observations_HD: what was seen before each step; padding repeats the last one.
        actions_HA: as the policy drew them, in units in which the task's bounds are -1 and 1, before clipping; padding
            is 0.
        rewards_H: the task's own rewards; padding is 0.
        length: steps before the episode ended, at most H.
        terminated: the task ended it, not the horizon.
    """

    name: str
    observations_HD: NDArray[np.float32]
    actions_HA: NDArray[np.float32]
    rewards_H: NDArray[np.float64]
    length: int
    terminated: bool

    @property
    def horizon(self) -> int:
        """H."""
        return len(self.rewards_H)

    @cached_property
    def true_return(self) -> float:
        """The sum of the task's own rewards."""
        return float(self.rewards_H.sum())

    @cached_property
    def fingerprint(self) -> str:
        """Tells this trajectory from every other one, wherever it is stored."""
        parts = (self.observations_HD, self.actions_HA, self.rewards_H)
        return hashlib.blake2b(b"".join(part.tobytes() for part in parts), digest_size=8).hexdigest()

    def return_between(self, begin: int, end: int) -> float:
        """The sum of the task's own rewards of the steps begin <= h < end."""
        return float(self.rewards_H[begin:end].sum())


def larger(first: float, second: float) -> float:
    """1 where the first is larger, 0 where it is smaller, 1/2 for a tie."""
    return 0.5 if first == second else float(first > second)


def maximum_reward(first: Trajectory, second: Trajectory) -> float:
    """The larger return wins: transitive, and a reward says everything."""
    return larger(first.true_return, second.true_return)


def noisy(first: Trajectory, second: Trajectory, flip: float, seed: int = 0) -> float:
    """The larger return wins, but the verdict on a pair is turned over with probability `flip`.

    Whether it is depends on the two trajectories and the seed alone: who asks again gets the same answer.

    Args:
        first: a trajectory.
        second: another.
        flip: in [0, 1/2).
        seed: of the noise.
    """
    verdict = maximum_reward(first, second)
    pair = sorted((first.fingerprint, second.fingerprint))
    return 1 - verdict if derive_seed(seed, "flip", *pair) < flip * 2**63 else verdict


def non_markovian(first: Trajectory, second: Trajectory, limit: float, early: float = 0.75) -> float:
    """The larger return over the early part wins, among those whose late return stays under a limit.

    A trajectory that breaks the limit loses to every one that keeps it, and ties with others that break it. The same
    step is good early and bad late, which no reward of states and actions can say.

    Args:
        first: a trajectory.
        second: another.
        limit: what the return of the late part must stay under.
        early: the share of the horizon that counts as early.
    """
    split = round(early * first.horizon)
    scores = [
        each.return_between(0, split) if each.return_between(split, each.horizon) < limit else -np.inf
        for each in (first, second)
    ]
    return larger(*scores)


def majority(first_K: Sequence[float], second_K: Sequence[float]) -> float:
    """The majority of K sub-populations decides; each looks at a feature of its own and prefers more of it.

    Three sub-populations suffice for a circle: (3, 1, 2) beats (2, 3, 1), which beats (1, 2, 3), which beats (3, 1, 2).

    Args:
        first_K: the features of the first.
        second_K: the features of the second.
    """
    votes = sum(larger(mine, other) - 0.5 for mine, other in zip(first_K, second_K, strict=True))
    return larger(votes, 0.0)


def time_in_sectors(trajectory: Trajectory, cosine: int, sine: int, num_sectors: int = 3) -> tuple[float, ...]:
    """The share of the horizon that an angle spends in each of equal sectors, the first one centred at angle 0.

    Shares add up to 1 where the episode lasts to the horizon, so that more of one is less of another. Two majorities of
    such shares play Blotto's game (Gross and Wagner 1950): every fixed split of the time is beaten by another one.

    Args:
        trajectory: the episode.
        cosine: the place of the angle's cosine in an observation.
        sine: the place of its sine.
        num_sectors: how many.
    """
    seen = trajectory.observations_HD[: trajectory.length]
    turns = np.arctan2(seen[:, sine], seen[:, cosine]) / (2 * np.pi) + 0.5 / num_sectors
    counts = np.bincount((np.mod(turns, 1.0) * num_sectors).astype(int) % num_sectors, minlength=num_sectors)
    return tuple(float(count) / trajectory.horizon for count in counts)
