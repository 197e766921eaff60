"""Which curves stand in one picture, and what it says underneath. Adding a picture is adding an entry here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sppo_lightning.reporting.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve: a value at each round, with the ends of its interval where it has one.

    `look` is the number of its colour and marker: a run looks the same in every picture.
    """

    label: str
    look: int
    values: Mapping[int, float]
    low: Mapping[int, float]
    high: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of curves over rounds.

    Attributes:
        key: its name in files and links.
        title: what it shows.
        caption: how to read it.
        unit: of its axis.
        series: its curves.
        legend: whether the curves are named; a single one of one run needs no more than the title.
        level: a value to compare with, drawn as a thin line.
    """

    key: str
    title: str
    caption: str
    unit: str
    series: tuple[Series, ...]
    legend: bool
    level: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A panel before it meets a run: curves as metric name -> label."""

    title: str
    caption: str
    unit: str
    curves: Mapping[str, str]
    level: float | None = None


_KINDS = {
    "true_return": _Kind(
        title="True return",
        caption="What the control task itself pays, on the evaluation's start states: watched, never learned from. "
        "A preference may want something else.",
        unit="return of an episode",
        curves={"eval/true_return": "last policy"},
    ),
    "win_rates": _Kind(
        title="Win rate on held-out prompts",
        caption="Against the start it says how far the policy came by its judge, not how hard it is to beat.",
        unit="win rate",
        curves={
            "round/win_rate_vs_start": "against the start",
            "round/win_rate_vs_previous": "against the round before",
            "round/second_win_rate_vs_start": "against the start, second judge",
        },
        level=0.5,
    ),
    "gaps": _Kind(
        title="Exploitability, from below",
        caption="Lower bounds: what the best reply that was found wins beyond a tie, twice. The true gap is at least "
        "this, and a bound of 0 says nothing. Replies from stored checkpoints only (gap/checkpoints) read 0 for a last "
        "policy that beats the earlier ones, however open it is; best of n looks far beyond them.",
        unit="duality gap, lower bound",
        curves={
            "gap/best_of_n": "last policy, best of n",
            "gap/best_of_n_mixture": "mixture, best of n",
            "gap/best_of_n_average": "averaged weights, best of n",
            "gap/exploiter": "last policy, trained best reply",
            "gap/exploiter_mixture": "mixture, trained best reply",
            "gap/checkpoints": "last policy, stored checkpoints only",
        },
        level=0.0,
    ),
    "log_ratios": _Kind(
        title="Winners and losers after training on them",
        caption="Mean log of new over old probability of each prompt's best and worst response. SPPO should raise the "
        "one and lower the other; where both fall, probability leaves for answers that nobody judged.",
        unit="nats per response",
        curves={"round/winner_log_ratio": "best response", "round/loser_log_ratio": "worst response"},
        level=0.0,
    ),
    "kl": _Kind(
        title="Distance from the start policy",
        caption="KL(policy || start) on the policy's own held-out answers.",
        unit="nats per response",
        curves={"round/kl_to_start": "KL to the start"},
        level=0.0,
    ),
    "lengths": _Kind(
        title="Length",
        caption="Winners much longer than losers: the judge pays length.",
        unit="tokens",
        curves={
            "round/held_out_tokens": "held-out answers",
            "round/winner_tokens": "best responses",
            "round/loser_tokens": "worst responses",
        },
    ),
    "diversity": _Kind(
        title="How alike answers are",
        caption="BLEU-2 with the other answers as references. Answers to one prompt grow alike as a policy sharpens; "
        "answers to different prompts should not.",
        unit="BLEU-2",
        curves={"round/self_bleu": "to one prompt", "round/cross_bleu": "to different prompts"},
    ),
    "faults": _Kind(
        title="Answers that say little",
        caption="Shares of responses. Refusals are recognised by their opening words in English.",
        unit="share",
        curves={
            "round/refusal_share": "refused",
            "round/empty_share": "empty",
            "round/repetition_share": "one phrase over and over",
            "round/truncated_share": "cut at the token limit",
            "round/duplicate_share": "exact duplicates",
        },
        level=0.0,
    ),
    "judge": _Kind(
        title="The judge on this round's responses",
        caption="Circles among the judge's majorities, and the part of its log-odds that no score explains. Few votes "
        "make circles, too: the audit tells.",
        unit="share",
        curves={
            "round/cyclic_share": "cyclic triples",
            "round/curl_share": "curl",
            "round/tie_share": "ties",
        },
        level=0.0,
    ),
    "length_correlation": _Kind(
        title="Does length win?",
        caption="Correlation of length with win rate among the responses to one prompt.",
        unit="correlation",
        curves={"round/length_correlation": "length with win rate"},
        level=0.0,
    ),
}
# What several runs are compared by, one picture each.
_COMPARED = (
    "eval/true_return",
    "round/win_rate_vs_start",
    "gap/best_of_n",
    "gap/best_of_n_mixture",
    "round/kl_to_start",
    "round/held_out_tokens",
    "round/cross_bleu",
)


def panels_of(run: RunRecord) -> list[Panel]:
    """The pictures that a run has numbers for."""
    panels = []
    for key, kind in _KINDS.items():
        series = [
            _series(label, look, run, name)
            for look, (name, label) in enumerate(kind.curves.items())
            if run.metrics.get(name)
        ]
        # Curves that lie on the axis from end to end would hide each other, and whatever lies there, too.
        moving = [each for each in series if any(each.values.values())] or series
        zero = [each.label for each in series if each not in moving]
        note = f" Zero throughout: {', '.join(zero)}." if zero else ""
        panels += _panel(key, kind.title, kind, moving, legend=len(moving) > 1, note=note)
    return panels


def comparison(runs: Sequence[RunRecord], labels: Sequence[str]) -> list[Panel]:
    """One picture a metric, one curve a run.

    Args:
        runs: what is compared.
        labels: what the runs are called; all different.
    """
    panels = []
    for name in _COMPARED:
        kind = next(kind for kind in _KINDS.values() if name in kind.curves)
        series = [
            _series(label, look, run, name)
            for look, (label, run) in enumerate(zip(labels, runs, strict=True))
            if run.metrics.get(name)
        ]
        title = f"{kind.title}: {kind.curves[name]}" if len(kind.curves) > 1 else kind.title
        panels += _panel(name.replace("/", "_"), title, kind, series, legend=True)
    return panels


def _panel(key: str, title: str, kind: _Kind, series: Sequence[Series], *, legend: bool, note: str = "") -> list[Panel]:
    if not series:
        return []
    return [
        Panel(
            key=key,
            title=title,
            caption=kind.caption + note,
            unit=kind.unit,
            series=tuple(series),
            legend=legend,
            level=kind.level,
        )
    ]


def _series(label: str, look: int, run: RunRecord, name: str) -> Series:
    return Series(
        label=label,
        look=look,
        values=run.metrics[name],
        low=run.metrics.get(f"{name}_low", {}),
        high=run.metrics.get(f"{name}_high", {}),
    )
