"""The socket for reward models: fitted on the oracle's comparisons, then they judge in its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from sppo_lightning.io.files import atomic_folder
from sppo_lightning.io.sealed import read_sealed_json, write_sealed_json
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.selfplay.comparisons import PromptComparisons, read_comparisons
from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.types import Policies, ProgressBar

REWARD_MODEL = "reward_model"
"""Where a round's fitted reward model lies, in the round's folder."""

REWARDS = "rewards"
"""Where its verdicts lie, as an oracle's lie under `preferences/`."""

_FIT = "fit.json"  # what was measured of the fit, metric name -> value


class RewardModel(ABC):
    """Learns in every round from what the oracle said, and decides the round's win rates and scores.

    Attributes:
        earlier_rounds: it is fitted on the comparisons of the run's earlier rounds, too.
    """

    earlier_rounds: bool = True

    @abstractmethod
    def fit(
        self,
        comparisons: Sequence[PromptComparisons],
        folder: Path,
        *,
        policies: Policies,
        seed: int,
        open_bar: Callable[[int], ProgressBar],
    ) -> dict[str, float]:
        """Fits anew, the same way for the same arguments, and writes the model.

        Args:
            comparisons: what it learns from.
            folder: an empty folder for the model.
            policies: the policies of the round.
            seed: of all that is random.
            open_bar: opens the bar that a person watches, of so many prompts.

        Returns:
            metric name -> value.
        """

    @abstractmethod
    def oracle(self, folder: Path, policies: Policies) -> PreferenceOracle:
        """What the model in `folder` says, with its scores; loaded on first use, freed by `close`."""


def fit_reward_model(
    model: RewardModel,
    rounds: Sequence[RoundFolder],
    oracle: str,
    *,
    policies: Policies,
    seed: int,
    open_bar: Callable[[int], ProgressBar],
) -> None:
    """Fits a round's reward model, unless that was done before a kill: it is written whole or not at all.

    Args:
        model: the reward model.
        rounds: whose comparisons it is fitted on; the last is the one it is for.
        oracle: name of the oracle that made them.
        policies: see `RewardModel.fit`.
        seed: see `RewardModel.fit`.
        open_bar: see `RewardModel.fit`.
    """
    target = rounds[-1].path / REWARD_MODEL
    if target.is_dir():
        return
    comparisons = [entry for folder in rounds for entry in read_comparisons(folder, oracle)]
    with atomic_folder(target, kind=REWARD_MODEL) as temporary:
        metrics = model.fit(comparisons, temporary, policies=policies, seed=seed, open_bar=open_bar)
        write_sealed_json(temporary / _FIT, metrics)


def fit_metrics(folder: RoundFolder) -> dict[str, float]:
    """What was measured of the fit of a round's reward model."""
    return read_sealed_json(folder.path / REWARD_MODEL / _FIT)
