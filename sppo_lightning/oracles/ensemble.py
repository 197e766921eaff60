"""Several judges as one: the weighted mean of their verdicts."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Self

import torch

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.composed import ComposedOracle
from sppo_lightning.types import Candidates, PreferenceMatrix

_NAME = re.compile(r"\w[\w-]*")


class Ensemble(ComposedOracle):
    """P(y > y') = sum over judges of weight * P_judge(y > y'), the weights summing to 1.

    A mean of probabilities keeps cycles, of one judge or between several. A pair counts only where every judge with a
    weight has judged it. Each judge's verdicts are kept by themselves (`data.judging`), so that other weights, in a
    fork or a new run over the same responses, cost no judging.

    Args:
        oracles: the judges, each under a name of yours.
        weights: by name; they need not sum to 1. A judge of weight 0 is not asked. Not set: all alike.

    Raises:
        ConfigError: no judge, weights for other names, or weights that are negative, not numbers, or all 0.
    """

    def __init__(self, oracles: dict[str, PreferenceOracle], weights: dict[str, float] | None = None) -> None:
        if not oracles:
            raise ConfigError("Ensemble: oracles is empty; name at least one judge")
        for name in oracles:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"Ensemble: oracles has the name {name!r}; it becomes part of metrics' names, so write letters, "
                    "digits, _ and -"
                )
        weights = dict.fromkeys(oracles, 1.0) if weights is None else weights
        if set(weights) != set(oracles):
            missing, unknown = sorted(set(oracles) - set(weights)), sorted(set(weights) - set(oracles))
            wrong = [f"none for {', '.join(missing)}"] * bool(missing) + [
                f"some for {', '.join(unknown)}, which it does not have"
            ] * bool(unknown)
            raise ConfigError(f"Ensemble: weights must name each of its oracles; there is {' and '.join(wrong)}")
        if any(not (math.isfinite(weight) and weight >= 0) for weight in weights.values()) or not sum(weights.values()):
            raise ConfigError(f"Ensemble: weights must be 0 or more with a positive sum, got {weights}")
        self.oracles, self.weights = oracles, weights

    @property
    def members(self) -> Mapping[str, PreferenceOracle]:
        """The judges that have a weight."""
        return {name: oracle for name, oracle in self.oracles.items() if self.weights[name] > 0}

    def asking(self, members: Mapping[str, PreferenceOracle]) -> Self:
        """The same weights over other judges."""
        other = copy.copy(self)
        other.oracles = {**self.oracles, **members}
        return other

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Asks every judge that has a weight.

        Raises:
            OracleError: a judge's matrix has another shape than the first one's.
        """
        verdicts = {name: oracle.compare(candidates, opponents) for name, oracle in self.members.items()}
        total = sum(self.weights[name] for name in verdicts)
        first = next(iter(verdicts.values()))
        probs_BKJ = torch.zeros_like(first.probs_BKJ, dtype=torch.float64)
        judged_BKJ = torch.ones_like(first.probs_BKJ, dtype=torch.bool)
        for name, matrix in verdicts.items():
            if matrix.probs_BKJ.shape != probs_BKJ.shape:
                raise OracleError(
                    f"Ensemble: {name} returned preferences of shape {tuple(matrix.probs_BKJ.shape)}, "
                    f"{next(iter(verdicts))} of shape {tuple(probs_BKJ.shape)}, for the same responses"
                )
            assert matrix.judged_BKJ is not None  # the carrier fills it in
            probs_BKJ += self.weights[name] / total * matrix.probs_BKJ.double()
            judged_BKJ &= matrix.judged_BKJ
        return PreferenceMatrix(
            probs_BKJ=probs_BKJ.masked_fill(~judged_BKJ, 0.5).clamp(0, 1).float(),
            judged_BKJ=judged_BKJ,
            self_play=opponents is None,
            prompt_ids=first.prompt_ids,
        )
