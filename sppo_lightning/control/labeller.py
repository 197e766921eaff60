"""The preference labeller: every new trajectory against a queue of recent ones.

SPO, arXiv 2401.04056: the self-play reward of a trajectory is its win rate against what the policy has lately done,
r(xi) = E_{xi' ~ pi_t} P(xi beats xi'). The queue stands for pi_t.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sppo_lightning.control.preferences import Preference, check_symmetry, verdict
from sppo_lightning.control.rounds import Comparisons, Round
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.trajectory_preferences import Trajectory
from sppo_lightning.types import ProgressBar


def compare_with_queue(
    new: Sequence[Trajectory],
    earlier: Sequence[Trajectory],
    first_number: int,
    preference: Preference,
    bar: ProgressBar | None = None,
) -> Comparisons:
    """Judges every new trajectory against the queue: the new ones and the earlier ones, each pair once.

    Args:
        new: N trajectories of this round.
        earlier: those that are still in the queue from earlier rounds, oldest first.
        first_number: the number of the first new one, counted over the run; the earlier ones end before it.
        preference: the judge.
        bar: told of every trajectory.

    Raises:
        OracleError: a verdict is not a probability, or depends on the order in which two are shown.
    """
    if len(new) > 1:
        check_symmetry(preference, new[0], new[1])
    queue = [*earlier, *new]
    first, second, probs = [], [], []
    for place, trajectory in enumerate(new, start=len(earlier)):
        for other in range(place):
            first.append(first_number + place - len(earlier))
            second.append(first_number + other - len(earlier))
            probs.append(verdict(preference, trajectory, queue[other]))
        if bar is not None:
            bar.update(1)
    return Comparisons(first_C=np.array(first, np.int64), second_C=np.array(second, np.int64), prob_C=np.array(probs))


def win_rates(round_: Round) -> Array:
    """[N] the win rate of each of a round's trajectories against the queue without itself."""
    comparisons, begin, count = round_.comparisons, round_.first_number, len(round_.trajectories)
    wins_N, number_N = np.zeros(count), np.zeros(count)
    for numbers_C, probs_C in (
        (comparisons.first_C, comparisons.prob_C),
        (comparisons.second_C, 1 - comparisons.prob_C),
    ):
        ours = numbers_C >= begin  # the others are earlier rounds' and have had their reward
        np.add.at(wins_N, numbers_C[ours] - begin, probs_C[ours])
        np.add.at(number_N, numbers_C[ours] - begin, 1)
    return wins_N / number_N
