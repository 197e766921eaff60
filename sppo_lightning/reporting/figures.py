"""A panel or a payoff matrix as a matplotlib figure, and a figure as SVG that takes its ink from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from sppo_lightning.reporting.panels import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008) without what is too pale on white or too dark on black, told apart with any colour
# vision; markers tell curves apart in a black and white print.
_COLOURS = ("#0078C8", "#D55E00", "#009E73", "#C06A9A", "#B8860B", "#7A7A7A")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Everything but the data is drawn in this colour, which `for_page` and `on_paper` then exchange for theirs.
PAGE_INK = "#010203"
PAPER_INK = "#1f2328"
_ID = re.compile(r'((?<![\w-])id="|href="#|url\(#)')
_SIZE = (5.2, 3.1)
_WIDEST = 1.6  # pixels in the page for a point of the figure; text then is a little larger than the page's
_LEGEND_COLUMNS = 2


def panel_figure(panel: Panel) -> Figure:
    """Draws curves over rounds, intervals as bars."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with _style():
        # This layout measures its text: tick labels are as wide as their numbers need.
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        shift = 0.06 * min(1, 4 / len(panel.series))  # bars of several curves must not hide each other
        for number, series in enumerate(panel.series):
            rounds = sorted(series.values)
            places = [index + shift * (number - (len(panel.series) - 1) / 2) for index in rounds]
            values = [series.values[index] for index in rounds]
            axes.errorbar(
                places,
                values,
                yerr=_bars(series.values, series.low, series.high, rounds),
                label=series.label,
                color=_COLOURS[series.look % len(_COLOURS)],
                marker=_MARKERS[series.look % len(_MARKERS)],
                markersize=4,
                linewidth=1.6,
                elinewidth=1.1,
                capsize=2,
            )
        if panel.level is not None:
            axes.axhline(panel.level, color=PAGE_INK, linewidth=0.8, alpha=0.6, zorder=0)
        every = sorted({index for series in panel.series for index in series.values})
        axes.set(xlabel="round", ylabel=panel.unit, xlim=(every[0] - 0.3, every[-1] + 0.3))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(y=0.12)
        if panel.legend:
            figure.legend(loc="outside upper left", ncols=_LEGEND_COLUMNS)
    return figure


def payoff_figure(names: Sequence[str], win_rates: Sequence[Sequence[float]]) -> Figure:
    """Draws win rates, row against column, as a heat map with its numbers.

    Args:
        names: of rows and columns.
        win_rates: [rows][columns] in [0, 1].
    """
    from matplotlib.figure import Figure

    with _style():
        count = len(names)
        figure = Figure(figsize=(1.9 + 0.62 * count, 1.1 + 0.5 * count), layout="constrained")
        axes = figure.add_subplot()
        # Vector cells: the page scales them, and an embedded bitmap would blur.
        axes.pcolormesh(win_rates, cmap="RdBu", vmin=0, vmax=1, edgecolors="none")
        axes.invert_yaxis()
        for i, row in enumerate(win_rates):
            for j, rate in enumerate(row):
                colour = "#ffffff" if abs(rate - 0.5) > 0.3 else "#111111"
                axes.text(j + 0.5, i + 0.5, f"{rate:.2f}", ha="center", va="center", color=colour)
        centres = [index + 0.5 for index in range(count)]
        axes.set_xticks(centres, names, rotation=30, ha="right")
        axes.set_yticks(centres, names)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def to_svg(figure: Figure, key: str) -> str:
    """A figure as an SVG element in `PAGE_INK`, its text kept as text: it can be searched, and read aloud.

    Args:
        figure: what this file drew.
        key: unique in the page: identifiers inside the SVG are made from it.
    """
    import matplotlib

    sink = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        # Without the date, equal numbers are equal files.
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(sink, format="svg", transparent=True, metadata=metadata)
    text = sink.getvalue()
    # matplotlib counts its elements from 1 in every figure; in one page they would be each other's.
    return _ID.sub(rf"\g<1>{key}-", text[text.index("<svg") :])


def for_page(svg: str, label: str) -> str:
    """An SVG that takes the text colour and the width of where it stands, and says to a screen reader what it is."""
    head, _, body = svg.replace(PAGE_INK, "currentColor").partition(">")
    width = re.search(r'width="([\d.]+)pt"', head)
    assert width is not None
    head = re.sub(r' (?:width|height)="[\d.]+pt"', "", head)
    widest = _WIDEST * float(width[1])
    return f'{head} role="img" aria-label="{escape(label)}" style="max-width: {widest:.0f}px">{body}'


def on_paper(svg: str) -> str:
    """An SVG that stands alone, on white."""
    head, _, body = svg.replace(PAGE_INK, PAPER_INK).partition(">")
    return f'{head} style="background: #ffffff">{body}'


def _bars(
    values: Mapping[int, float], low: Mapping[int, float], high: Mapping[int, float], rounds: Sequence[int]
) -> list[list[float]] | None:
    if not low or not high:
        return None
    return [
        [values[index] - min(low.get(index, values[index]), values[index]) for index in rounds],
        [max(high.get(index, values[index]), values[index]) - values[index] for index in rounds],
    ]


def _style() -> Any:
    import matplotlib

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(inks, PAGE_INK) | {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": PAGE_INK,
        "grid.alpha": 0.12,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    return matplotlib.rc_context(style)
