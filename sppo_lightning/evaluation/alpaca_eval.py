"""AlpacaEval's arithmetic on annotation files, without its package.

Dubois et al., AlpacaFarm (arXiv 2305.14387), and the metrics of AlpacaEval 2. Exact: nothing here samples or judges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sppo_lightning.errors import DataError
from sppo_lightning.evaluation.length_controlled import LengthControlled
from sppo_lightning.io.benchmarks_annotations import TIE, Annotation


@dataclass(frozen=True, kw_only=True)
class AlpacaEvalWinRate:
    """How often the model of an annotation file beats the baseline.

    Attributes:
        win_rate: mean preference for the model, in [0, 1]; a tie counts 0.5.
        standard_error: of that mean, s / sqrt(n) with the sample's own deviation; NaN for a single annotation.
        discrete_win_rate: with each preference rounded to win, loss or tie first, in [0, 1].
        num_wins: preferences for the model.
        num_losses: preferences for the baseline.
        num_draws: preferences of exactly 1.5 (or 0, how old files write it).
        num_judged: their sum, what the means are over.
        num_nulls: instructions the judge gave no preference for, left out.
    """

    win_rate: float
    standard_error: float
    discrete_win_rate: float
    num_wins: int
    num_losses: int
    num_draws: int
    num_judged: int
    num_nulls: int


def alpaca_eval_win_rate(annotations: Sequence[Annotation]) -> AlpacaEvalWinRate:
    """Win rate, standard error and discrete win rate.

    Args:
        annotations: of one model against one baseline.

    Raises:
        DataError: no annotation has a preference.
    """
    judged = np.array([row.preference for row in annotations if row.preference is not None])
    if len(judged) == 0:
        raise DataError(f"none of the {len(annotations)} annotations has a preference; did the judge fail?")
    wins, losses = int((judged > TIE).sum()), int((judged < TIE).sum())
    draws = len(judged) - wins - losses
    return AlpacaEvalWinRate(
        win_rate=float(judged.mean() - 1),
        standard_error=float(judged.std(ddof=1) / math.sqrt(len(judged))) if len(judged) > 1 else math.nan,
        discrete_win_rate=(wins + draws / 2) / len(judged),
        num_wins=wins,
        num_losses=losses,
        num_draws=draws,
        num_judged=len(judged),
        num_nulls=len(annotations) - len(judged),
    )


def leaderboard_row(raw: AlpacaEvalWinRate, controlled: LengthControlled) -> dict[str, Any]:
    """The figures under the names and in the unit, per cent, of AlpacaEval's own `leaderboard.csv`.

    Returns:
        JSON's types; what does not exist (a standard error, a length-controlled win rate) is None.
    """
    percent = {
        "win_rate": raw.win_rate,
        "standard_error": raw.standard_error,
        "discrete_win_rate": raw.discrete_win_rate,
        "length_controlled_winrate": controlled.win_rate,
        "lc_standard_error": controlled.standard_error,
    }
    return {name: None if math.isnan(value) else 100 * value for name, value in percent.items()} | {
        "n_wins": raw.num_wins,
        "n_wins_base": raw.num_losses,
        "n_draws": raw.num_draws,
        "n_total": raw.num_judged,
        "n_nulls": raw.num_nulls,
    }
