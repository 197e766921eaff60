"""A judge under rules that no verdict of its may outweigh."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.composed import ComposedOracle
from sppo_lightning.oracles.constraint import Constraint
from sppo_lightning.oracles.ragged import check_same_prompts
from sppo_lightning.types import Candidates, PreferenceMatrix

Mode = Literal["veto", "lexicographic", "lagrangian"]
_LEAST = 1e-6  # of a probability whose odds are taken


class Constrained(ComposedOracle):
    """Another oracle's verdicts between responses that keep the rules; breaking one is worse than anything else.

    With v the amount by which a response breaks a constraint (`Constraint`), 0 if it keeps it:

        veto: a response that breaks any loses to one that breaks none, P = 0. Everything else the oracle decides.
        lexicographic: the first constraint of the list on which two responses differ decides, less broken wins, P = 1.
            Where they break all alike, the oracle decides. A degree of breaking is thus unlearnt step by step.
        lagrangian: logit P' = logit P - multiplier * (v - v'), v summed over the constraints: rules have a price. After
            each round the price of the next one moves by `step * (share of responses that broke a rule - allowed)`,
            never below 0 (dual ascent). It is computed from the stored responses of the earlier rounds, so a resumed
            run knows it; outside of rounds (held-out evaluation) the first price, `multiplier`, holds.

    A pair with a certain loser needs no verdict and is judged even where the oracle gave none. `measured` counts the
    different responses that broke a rule.

    Args:
        oracle: decides between responses that keep the rules.
        constraints: the rules, the most important first.
        mode: see above.
        multiplier: lagrangian: the price of one unit of breaking in the first round, in nats of log-odds.
        step: lagrangian: how far the price moves in a round in which every response breaks a rule.
        allowed: lagrangian: the share of responses that may break a rule.

    Raises:
        ConfigError: no constraint, an unknown mode, or a number outside its range.
    """

    def __init__(
        self,
        oracle: PreferenceOracle,
        constraints: list[Constraint],
        mode: Mode = "veto",
        multiplier: float = 1.0,
        step: float = 5.0,
        allowed: float = 0.01,
    ) -> None:
        if not constraints:
            raise ConfigError("Constrained: constraints is empty; name at least one rule, or use the oracle alone")
        if mode not in ("veto", "lexicographic", "lagrangian"):
            raise ConfigError(f"Constrained: mode must be veto, lexicographic or lagrangian, got {mode!r}")
        for name, value in (("multiplier", multiplier), ("step", step)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"Constrained: {name} must be 0 or more, got {value}")
        if not 0 <= allowed <= 1:
            raise ConfigError(f"Constrained: allowed is a share of the responses, in [0, 1], got {allowed}")
        self.oracle, self.constraints, self.mode = oracle, constraints, mode
        self.multiplier, self.step, self.allowed = multiplier, step, allowed
        self._broken: dict[int, bool] = {}  # by hash of (prompt id, text), since the texts of a round are many

    @property
    def name(self) -> str:
        """Says both what it is and whose verdicts it constrains."""
        return f"Constrained-{self.oracle.name}"

    @property
    def members(self) -> Mapping[str, PreferenceOracle]:
        """The oracle and whatever oracles the constraints ask."""
        asked = {f"constraint_{place}": rule.oracle for place, rule in enumerate(self.constraints)}
        return {"oracle": self.oracle} | {name: oracle for name, oracle in asked.items() if oracle is not None}

    def asking(self, members: Mapping[str, PreferenceOracle]) -> Self:
        """The same rules over other oracles."""
        other = copy.copy(self)
        other.oracle = members["oracle"]
        other.constraints = [
            rule.asking(members[f"constraint_{place}"]) if rule.oracle is not None else rule
            for place, rule in enumerate(self.constraints)
        ]
        return other

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """With the price that the earlier rounds' responses lead to."""
        other = super().for_round(earlier)
        assert isinstance(other, Constrained)
        other._broken = {}
        if self.mode == "lagrangian":
            for responses in earlier:
                broke = torch.cat([self._broke(part) for part in responses])
                other.multiplier = max(
                    0.0, other.multiplier + self.step * (float(broke.double().mean()) - self.allowed)
                )
        return other

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Asks the oracle about every pair, and each constraint about every response.

        Raises:
            OracleError: the oracle or a constraint answered with something that is no verdict.
        """
        columns = check_same_prompts(candidates, opponents)
        broken_CBK = torch.stack([rule.broken_by(candidates) for rule in self.constraints])
        broken_CBJ = broken_CBK
        if opponents is not None:
            broken_CBJ = torch.stack([rule.broken_by(columns) for rule in self.constraints])
        self._count(candidates, broken_CBK)
        if opponents is not None:
            self._count(opponents, broken_CBJ)
        verdicts = self.oracle.compare(candidates, opponents)
        assert verdicts.judged_BKJ is not None  # the carrier fills it in
        more_CBKJ = broken_CBK[:, :, :, None] - broken_CBJ[:, :, None, :]
        exists_BKJ = torch.isfinite(more_CBKJ[0])
        probs_BKJ, judged_BKJ = verdicts.probs_BKJ.double(), verdicts.judged_BKJ
        if self.mode == "lagrangian":
            price_BKJ = self.multiplier * more_CBKJ.nan_to_num(0.0).sum(dim=0)
            priced_BKJ = torch.sigmoid(torch.logit(probs_BKJ, eps=_LEAST) - price_BKJ)
            probs_BKJ = torch.where(price_BKJ == 0, probs_BKJ, priced_BKJ)
        else:
            decided_BKJ, wins_BKJ = self._decided(broken_CBK, broken_CBJ, more_CBKJ)
            decided_BKJ &= exists_BKJ
            probs_BKJ = torch.where(decided_BKJ, wins_BKJ, probs_BKJ)
            judged_BKJ = judged_BKJ | decided_BKJ
        return PreferenceMatrix(
            probs_BKJ=probs_BKJ.masked_fill(~judged_BKJ, 0.5).float(),
            judged_BKJ=judged_BKJ,
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )

    def _decided(self, broken_CBK: Tensor, broken_CBJ: Tensor, more_CBKJ: Tensor) -> tuple[Tensor, Tensor]:
        """Which pairs the rules decide, and P(row beats column) there, both [B, K, J]."""
        if self.mode == "veto":
            row_BK1, column_B1J = (broken_CBK > 0).any(dim=0)[:, :, None], (broken_CBJ > 0).any(dim=0)[:, None, :]
            return row_BK1 != column_B1J, (column_B1J & ~row_BK1).double()
        wins_BKJ = torch.full(more_CBKJ.shape[1:], 0.5, dtype=torch.float64)
        for more_BKJ in more_CBKJ.flip(0).nan_to_num(0.0):  # the most important one has the last word
            wins_BKJ = torch.where(more_BKJ == 0, wins_BKJ, (more_BKJ < 0).double())
        return (more_CBKJ.nan_to_num(0.0) != 0).any(dim=0), wins_BKJ

    def _broke(self, candidates: Candidates) -> Tensor:
        """Bool [N], whether each existing response broke a rule."""
        return self._any(torch.stack([rule.broken_by(candidates) for rule in self.constraints]))

    @staticmethod
    def _any(broken_CBK: Tensor) -> Tensor:
        return (broken_CBK > 0).any(dim=0)[torch.isfinite(broken_CBK[0])]

    def _count(self, responses: Candidates, broken_CBK: Tensor) -> None:
        """Each response once: a sample of pairs asks about some of them often, on either side."""
        broke = iter(self._any(broken_CBK).tolist())
        for prompt, texts in zip(responses.prompts, responses.texts, strict=True):
            for text in texts:
                self._broken[hash((prompt.prompt_id, text))] = next(broke)

    def measured(self) -> dict[str, float]:
        """The members' metrics.

        Returns:
            `violations`: the share of the judged responses that broke a rule, opponents' included and equal ones to a
            prompt counted once; `multiplier`: the price, if there is one.
        """
        found = super().measured()
        if self._broken:
            found["violations"] = sum(self._broken.values()) / len(self._broken)
        return found | ({"multiplier": self.multiplier} if self.mode == "lagrangian" else {})

    def close(self) -> None:
        """Frees what the oracles and the constraints loaded."""
        super().close()
        for rule in self.constraints:
            rule.close()
