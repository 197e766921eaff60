"""The lab's picture: gap against round on log-log axes, the average policy on the left, the last on the right."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sppo_lightning.commands.lab_config import Game
from sppo_lightning.commands.lab_play import Curves
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.tabular import TabularMethod

# Okabe and Ito's palette (2008), told apart with any colour vision; its yellow is left out, too pale on white. The
# dashes tell curves apart that lie on each other, and in a black and white print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.2, 1)), (0, (8, 2)))
# Smaller gaps leave the panel through its floor: a mixture of T policies keeps some 1 / T of its start, so nothing is
# seen down there, and below 1e-12 the regularised gap is rounding.
_FLOOR = {False: 1e-6, True: 1e-12}
_RATES: dict[str, tuple[float, dict[str, Any]]] = {
    r"slope of $1/\sqrt{t}$": (0.5, {"color": "#888888", "linewidth": 0.8, "linestyle": ":"}),
    "slope of $1/t$": (1.0, {"color": "#888888", "linewidth": 0.8, "linestyle": "-."}),
}
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text, as journals ask
    "savefig.dpi": 200,
}
_WIDTH = 6.8  # inches, a text width
_TITLE_LETTERS = 48  # what fits above half of it

Run = tuple[Game, TabularMethod, Curves]


def draw_gaps(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes gaps.pdf and gaps.png.

    A game has a row with the duality gap of the methods that solve the game itself, and a row with the regularised
    game's gap of the methods with a reference; a row without methods is left out.

    Args:
        runs: what was played.
        folder: where to write; it exists.

    Returns:
        the two files.
    """
    # A Figure rather than pyplot: no display is looked for, and nobody's current figure is touched.
    import matplotlib
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(repr(method) for _, method, _ in runs))
    looks = {
        method: {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}
        for i, method in enumerate(methods)
    }
    rows: dict[tuple[str, bool], list[Run]] = {}
    for game, method, curves in runs:
        rows.setdefault((game.label, method.tau is not None), []).append((game, method, curves))
    paths = [folder / "gaps.pdf", folder / "gaps.png"]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.2 * len(rows) + 0.6), layout="constrained")
        axes = figure.subplots(len(rows), 2, squeeze=False, sharey="row")
        for panels, ((label, regularised), row) in zip(axes, rows.items(), strict=True):
            _draw_row(panels, row, regularised, looks)
            panels[0].set(ylabel="regularised gap" if regularised else "duality gap")
            panels[0].set_title(textwrap.fill(f"{label}: average policy", _TITLE_LETTERS), loc="left")
            panels[1].set_title("last policy", loc="left")
        for panel in axes[-1]:
            panel.set_xlabel("round $t$")
        _draw_legend(figure, looks, with_rates=any(not regularised for _, regularised in rows))
        for path in paths:
            # Without the date, equal results are equal files.
            figure.savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
    return paths


def _draw_row(panels: Any, row: Sequence[Run], regularised: bool, looks: dict[str, dict[str, Any]]) -> None:
    floor = _FLOOR[regularised]
    medians: list[Array] = []
    for _, method, curves in row:
        for panel, gap_QI in zip(panels, _gaps(curves, regularised), strict=True):
            shown_QI = np.maximum(gap_QI, floor / 100)
            medians.append(np.median(shown_QI, axis=1))
            panel.plot(curves.round_Q, medians[-1], linewidth=1.4, **looks[repr(method)])
            if gap_QI.shape[1] > 1:
                lowest, highest = shown_QI.min(axis=1), shown_QI.max(axis=1)
                panel.fill_between(
                    curves.round_Q, lowest, highest, color=looks[repr(method)]["color"], alpha=0.12, linewidth=0
                )
    # The medians decide what is seen: one game's lowest outlier would flatten the rest.
    bottom = max(floor, min(curve.min() for curve in medians) / 2)
    top = max(2 * bottom, max(curve.max() for curve in medians) * 1.5)
    rounds = row[0][2].round_Q
    for panel in panels:
        panel.set(xscale="log", yscale="log", xlim=(1, max(rounds[-1], 2)), ylim=(bottom, top))
        panel.tick_params(which="minor", length=0)
    if not regularised:
        _draw_rates(panels[0])


def _gaps(curves: Curves, regularised: bool) -> tuple[Array, Array]:
    """[Q, I] the average's and the last policy's gap."""
    if not regularised:
        return curves.average_gap_QI, curves.last_gap_QI
    assert curves.average_regularised_gap_QI is not None
    assert curves.last_regularised_gap_QI is not None
    return curves.average_regularised_gap_QI, curves.last_regularised_gap_QI


def _draw_rates(panel: Any) -> None:
    """The slopes that theory promises for averages, from the upper left corner."""
    (_, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    for power, look in _RATES.values():
        end = min(right, (top / bottom) ** (1 / power))
        panel.plot([1, end], [top, top * end**-power], zorder=1, **look)


def _draw_legend(figure: Any, looks: dict[str, dict[str, Any]], with_rates: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], linewidth=1.4, label=method, **look) for method, look in looks.items()]
    if with_rates:
        handles += [Line2D([], [], label=label, **look) for label, (_, look) in _RATES.items()]
    # A letter is about 0.065 inches wide at 8 points; a handle and its margins take half an inch.
    widest = 0.5 + 0.065 * max(len(method) for method in looks)
    ncols = max(1, min(len(handles), int(_WIDTH / widest)))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, handlelength=2.6)
