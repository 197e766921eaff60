"""The numbers behind the pictures, as rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sppo_lightning.reporting.panels import Panel
from sppo_lightning.reporting.record import RunRecord

_ROUND_COLUMNS = {
    "eval/true_return": ("true return", 1),
    "round/win_rate_vs_start": ("vs start", 3),
    "round/win_rate_vs_previous": ("vs previous", 3),
    "gap/best_of_n": ("gap, last", 3),
    "gap/best_of_n_mixture": ("gap, mixture", 3),
    "round/kl_to_start": ("KL", 2),
    "round/held_out_tokens": ("tokens", 1),
    "round/cross_bleu": ("alike", 2),
    "cost/oracle_queries": ("queries", 0),
    "cost/generated_tokens": ("generated", 0),
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column names and cells; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def rounds_table(run: RunRecord) -> Table:
    """One row a round, the columns that the run has numbers for."""
    names = [name for name in _ROUND_COLUMNS if run.metrics.get(name)]
    return Table(
        columns=("round", *(_ROUND_COLUMNS[name][0] for name in names)),
        rows=tuple((str(index), *(_cell(run, name, index) for name in names)) for index in run.rounds),
    )


def comparison_table(runs: Sequence[RunRecord], labels: Sequence[str]) -> Table:
    """One row a run: its newest round."""
    names = [name for name in _ROUND_COLUMNS if any(run.metrics.get(name) for run in runs)]
    return Table(
        columns=("run", "rounds", *(_ROUND_COLUMNS[name][0] for name in names)),
        rows=tuple(
            (
                label,
                str(len(run.rounds)),
                *(_cell(run, name, max(run.metrics.get(name, {-1: 0.0}))) for name in names),
            )
            for label, run in zip(labels, runs, strict=True)
        ),
    )


def panel_table(panel: Panel) -> Table:
    """One row a round, one column a curve."""
    rounds = sorted({index for series in panel.series for index in series.values})
    return Table(
        columns=("round", *(series.label for series in panel.series)),
        rows=tuple(
            (
                str(index),
                *(
                    _number(series.values.get(index), series.low.get(index), series.high.get(index), 3)
                    for series in panel.series
                ),
            )
            for index in rounds
        ),
    )


def payoff_table(names: Sequence[str], win_rates: Sequence[Sequence[float]]) -> Table:
    """Win rates, row against column."""
    return Table(
        columns=("row against column", *names),
        rows=tuple((name, *(f"{rate:.3f}" for rate in row)) for name, row in zip(names, win_rates, strict=True)),
    )


def as_markdown(table: Table) -> str:
    """A table for a model card or a run's description."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(run: RunRecord, name: str, index: int) -> str:
    value, low, high = (run.metrics.get(f"{name}{end}", {}).get(index) for end in ("", "_low", "_high"))
    return _number(value, low, high, _ROUND_COLUMNS[name][1])


def _number(value: float | None, low: float | None, high: float | None, digits: int) -> str:
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{value:,.{digits}f}"
    return f"{value:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"
