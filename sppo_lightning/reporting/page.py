"""One run, or several, as one self-contained HTML page: no script, nothing fetched, readable by day and by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo_lightning import __version__
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.secrets import redact
from sppo_lightning.reporting.figures import for_page, panel_figure, payoff_figure, to_svg
from sppo_lightning.reporting.panels import Panel, comparison, panels_of
from sppo_lightning.reporting.record import RunRecord
from sppo_lightning.reporting.tables import Table, comparison_table, panel_table, payoff_table, rounds_table
from sppo_lightning.reporting.warnings import warnings_of

# What a reader wants to know of the set-up, in this order; the rest is in config.yaml.
_SETTINGS = {
    "model.policy": "start policy",
    "model.objective": "objective",
    "model.objective.eta": "eta",
    "data.oracle": "judge",
    "data.opponent": "opponent",
    "data.pairing": "pairing",
    "data.num_candidates": "responses a prompt",
    "data.prompts": "prompts",
    "model.optimizer.lr": "learning rate",
    "seed_everything": "seed",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure in the page, and the numbers it was drawn from."""

    key: str
    title: str
    caption: str
    svg: str
    table: Table

    @property
    def inline(self) -> str:
        """The figure as it stands in the page."""
        return for_page(self.svg, self.title)


def render(runs: Sequence[RunRecord]) -> tuple[str, list[Picture]]:
    """The page of one run, or the comparison of several.

    Args:
        runs: at least one.

    Returns:
        the page, and the pictures in it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resolve("package:report")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    labels = run_labels(runs)
    context = _one(runs[0]) if len(runs) == 1 else _several(runs, labels)
    page = environment.get_template("page.html.j2").render(
        version=__version__,
        title=labels[0] if len(runs) == 1 else f"{len(runs)} runs: {', '.join(labels)}",
        style=(Path(resolve("package:report")) / "page.css").read_text(encoding="utf-8"),
        warnings=[
            (label if len(runs) > 1 else "", warning)
            for label, run in zip(labels, runs, strict=True)
            for warning in warnings_of(run)
        ],
        **context,
    )
    # A prompt file's address may carry a password.
    return redact(page), context["pictures"]


def run_labels(runs: Sequence[RunRecord]) -> list[str]:
    """What runs are called: their folders' names, or paths where two have the same."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _one(run: RunRecord) -> dict[str, Any]:
    pictures = [_picture(panel) for panel in panels_of(run)]
    if run.payoff:
        names, rates = run.payoff["names"], run.payoff["win_rates"]
        payoff = Picture(
            key="payoff",
            title="Everyone against everyone",
            caption="Win rate of the row against the column on held-out prompts: blue wins, red loses. A row without "
            "red is beaten by nobody here; a circle of wins means that there is no best policy."
            + (f" The mixture is {run.alone} alone." if run.alone else ""),
            svg=to_svg(payoff_figure(names, rates), "payoff"),
            table=payoff_table(names, rates),
        )
        pictures.insert(min(2, len(pictures)), payoff)
    return {
        "settings": _set_up(run),
        "summary": rounds_table(run),
        "pictures": pictures,
        "mixture": run.mixture,
        "alone": run.alone,
        "examples": run.examples,
        "heat_maps": [_heat_map(index, samples) for index, samples in sorted(run.token_ratios.items(), reverse=True)],
    }


def _set_up(run: RunRecord) -> dict[str, str]:
    """What the run was set to, in words; classes by their short names."""
    known = {label: str(run.settings[key]) for key, label in _SETTINGS.items() if run.settings.get(key) is not None}
    return {
        label: value.rpartition(".")[2] if value.startswith("sppo_lightning.") else value
        for label, value in known.items()
    }


def _several(runs: Sequence[RunRecord], labels: Sequence[str]) -> dict[str, Any]:
    return {
        "settings": _differences(runs, labels),
        "summary": comparison_table(runs, labels),
        "pictures": [_picture(panel) for panel in comparison(runs, labels)],
        "mixture": {},
        "alone": None,
        "examples": _side_by_side(runs, labels),
        "heat_maps": [],
    }


def _picture(panel: Panel) -> Picture:
    svg = to_svg(panel_figure(panel), panel.key)
    return Picture(key=panel.key, title=panel.title, caption=panel.caption, svg=svg, table=panel_table(panel))


def _heat_map(round_index: int, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tokens with a shade from -1 to 1, full at the round's largest log-ratio, but for outliers."""
    sizes = sorted(abs(ratio) for sample in samples for ratio in sample["log_ratios"])
    scale = sizes[int(0.95 * (len(sizes) - 1))] if sizes else 0.0
    return {
        "round": round_index,
        "scale": scale,
        "samples": [
            {
                **sample,
                "total": sum(sample["log_ratios"]),
                "tokens": [
                    (token, ratio, max(-1.0, min(1.0, ratio / scale)) if scale > 0 else 0.0)
                    for token, ratio in zip(sample["tokens"], sample["log_ratios"], strict=True)
                ],
            }
            for sample in samples
        ],
    }


def _differences(runs: Sequence[RunRecord], labels: Sequence[str]) -> dict[str, str]:
    """Settings in which the runs differ: key -> the value of each."""
    roots = ("model", "data", "seed_everything")
    keys = sorted({key for run in runs for key in run.settings if key.split(".")[0] in roots})
    found = {}
    for key in keys:
        values = [str(run.settings.get(key, "-")) for run in runs]
        if len(set(values)) > 1:
            found[key] = ", ".join(f"{label}: {value}" for label, value in zip(labels, values, strict=True))
    return found


def _side_by_side(runs: Sequence[RunRecord], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Prompts that all runs were evaluated on, with the newest answer of each."""
    newest = [{example.prompt: list(example.answers.values())[-1] for example in run.examples} for run in runs]
    shared = [prompt for prompt in newest[0] if all(prompt in answers for answers in newest)]
    return [
        {"prompt": prompt, "answers": {label: answers[prompt] for label, answers in zip(labels, newest, strict=True)}}
        for prompt in shared
    ]
