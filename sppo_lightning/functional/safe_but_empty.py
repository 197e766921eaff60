"""The "safe but empty" alarm: a policy that drifts to answers no judge objects to and nobody needs.

A judge that punishes mistakes more than silence makes "It depends on many things." a safe move in every comparison: the
win rate holds or rises while the answers stop saying anything. No single number shows it. A policy that learns to be
brief, or sharpens onto one style, moves one of the signals below and is healthy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SILENT_RISE = 0.10
ALIKE_RISE = 0.15
SHORTER_RATIO = 0.60


@dataclass(frozen=True, kw_only=True)
class SafeButEmpty:
    """What was seen of one policy beside the start policy, on the same prompts.

    Attributes:
        signals: one sentence for each signal that moved.
        judge_objects: the win rate against the start is below 1/2 beyond its interval, so that the judge sees it too.
    """

    signals: tuple[str, ...]
    judge_objects: bool

    @property
    def fires(self) -> bool:
        """Two signals or more, and the judge does not object."""
        return len(self.signals) >= 2 and not self.judge_objects


def safe_but_empty(
    start: Mapping[str, float], now: Mapping[str, float], win_rate_high: float | None = None
) -> SafeButEmpty:
    """Compares a policy's texts with the start policy's.

    A signal counts if it moved far (the first number) and beyond noise (the 95 % intervals are apart):
        silent: the share of refused or empty answers rose by at least 0.10;
        alike: answers to different prompts became more alike by at least 0.15 of cross-BLEU;
        shorter: the mean length fell to at most 0.60 of the start's.
    The alarm fires where two of the three moved and the judge does not object.

    Args:
        start: `silent_share`, `cross_bleu` and `held_out_tokens` of the start policy, each with `_low` and `_high`.
        now: the same of the policy in question.
        win_rate_high: upper end of its win rate against the start; None where that was not measured, which is taken as
            no objection.
    """
    signals = []
    if _rose(start, now, "silent_share", SILENT_RISE):
        signals.append(
            f"refused or empty answers rose from {start['silent_share']:.0%} to {now['silent_share']:.0%} of all"
        )
    if _rose(start, now, "cross_bleu", ALIKE_RISE):
        signals.append(
            "answers to different prompts became more alike (cross-BLEU from "
            f"{start['cross_bleu']:.2f} to {now['cross_bleu']:.2f})"
        )
    tokens = "held_out_tokens"
    if now[tokens] <= SHORTER_RATIO * start[tokens] and now[f"{tokens}_high"] < start[f"{tokens}_low"]:
        signals.append(f"answers shrank from {start[tokens]:.0f} to {now[tokens]:.0f} tokens")
    return SafeButEmpty(signals=tuple(signals), judge_objects=win_rate_high is not None and win_rate_high < 0.5)


def _rose(start: Mapping[str, float], now: Mapping[str, float], name: str, by: float) -> bool:
    return now[name] - start[name] >= by and now[f"{name}_low"] > start[f"{name}_high"]
