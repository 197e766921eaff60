"""Do the judge's probabilities mean what they say?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sppo_lightning.commands.audit_biases import by_prompt
from sppo_lightning.commands.audit_section import Section, counted, numbers
from sppo_lightning.functional.calibration import fit_scale, reliability
from sppo_lightning.functional.intervals import Interval, win_rate_interval
from sppo_lightning.io.votes import Votes

_QUESTION = "Is it calibrated?"
_WIDEST = 10.0  # a temperature known to no better than this factor may as well be 1/3 or 3


def calibration(votes: Votes, seed: int) -> Section:
    """Agreement with the labels, calibration error, and the temperature that mends it."""
    labelled_M = ~np.isnan(votes.label_M)
    if not labelled_M.any():
        return _unknown("the input has no labels that say which response is better.")
    decided_M = labelled_M & (votes.label_M != 0.5)
    figures: list[tuple[str, str]] = []
    notes: list[str] = []
    data: dict[str, Any] = {"labelled": int(labelled_M.sum())}
    if decided_M.any():
        right_M = np.where(votes.label_M == 1, votes.share_first, 1 - votes.share_first)
        # Half for a tied verdict; how sure a verdict is, is the calibration's business.
        agreement = win_rate_interval(
            by_prompt((np.sign(right_M - 0.5) / 2 + 0.5)[decided_M], votes.prompt_M[decided_M])
        )
        figures.append(("agreement with the labels", str(agreement)))
        data["agreement"] = numbers(agreement)
    used_M = labelled_M & ~np.isnan(votes.prob_first_M)
    if not used_M.any():
        return _unknown("the input has labels, but not the judge's probabilities (prob_first).", figures, data)
    if not used_M.all():
        notes.append(f"{counted(int((~used_M).sum()), 'comparison')} without a label or a probability not used.")
    probs_M, labels_M, prompt_M = votes.prob_first_M[used_M], votes.label_M[used_M], votes.prompt_M[used_M]
    bins = reliability(probs_M, labels_M, seed)
    figures += [
        ("labelled pairs with a probability", f"{len(probs_M):,}"),
        ("expected calibration error", f"{bins.error:.3f}"),
        ("95 % of calibrated judges stay below", f"{bins.error_if_calibrated:.3f}"),
    ]
    data |= {
        "pairs": len(probs_M),
        "error": bins.error,
        "error_if_calibrated": bins.error_if_calibrated,
        "bins": [
            {"pairs": int(count), "confidence": float(confidence), "accuracy": float(accuracy)}
            for count, confidence, accuracy in zip(bins.counts_C, bins.confidence_C, bins.accuracy_C, strict=True)
            if count
        ],
    }
    scale = fit_scale(probs_M, labels_M, prompt_M)
    calibrated = bins.error <= bins.error_if_calibrated
    error = f"calibration error {bins.error:.3f}, a calibrated judge's would be below {bins.error_if_calibrated:.3f}"
    if scale is None or scale.estimate <= 0:
        why = "the labels contradict its verdicts"
        if scale is None:
            why = "the labels follow its verdicts without exception, or contradict all of them, or it always says 1/2"
        if calibrated:
            return _unknown(
                f"no temperature fits: {why}, and the calibration error {bins.error:.3f} is what chance gives "
                f"a calibrated judge on so few pairs (below {bins.error_if_calibrated:.3f}).",
                figures,
                data,
                notes,
            )
        return Section(
            key="calibration",
            question=_QUESTION,
            answer=f"No. No temperature fits: {why}; {error}.",
            tone="bad",
            figures=tuple(figures),
            notes=tuple(notes),
            data=data,
        )
    temperature = Interval(
        estimate=1 / scale.estimate, low=1 / scale.high, high=1 / scale.low if scale.low > 0 else np.inf
    )
    figures.append(("temperature", str(temperature)))
    line = f"data: {{oracle: {{init_args: {{scale: {scale.estimate:.4g}}}}}}}"
    data |= {"temperature": numbers(temperature), "scale": numbers(scale), "yaml": line}
    notes.append(
        "For a ScoreToPreference oracle, a line of YAML to paste; if its scale is not 1 so far, multiply the two:"
    )
    off = not temperature.low <= 1 <= temperature.high
    kind = "too sure of itself" if temperature.estimate > 1 else "surer than it says"
    if calibrated and not off and temperature.high > _WIDEST * temperature.low:
        why = f"the labels leave the temperature open ({temperature}); label more prompts."
        return _unknown(why, figures, data, notes)
    if calibrated and not off:
        answer = f"As far as one can see: {error}; temperature {temperature}."
    elif off:
        answer = f"No, it is {kind}: the temperature that fits the labels is {temperature}, which leaves out 1. "
        answer += (
            f"That decides: its calibration error {bins.error:.3f} alone would not stand out (a calibrated judge's is "
            f"below {bins.error_if_calibrated:.3f})."
            if calibrated
            else f"So does its {error}."
        )
    else:
        answer = f"No, by its {error}; no temperature mends that ({temperature} fits best)."
    return Section(
        key="calibration",
        question=_QUESTION,
        answer=answer,
        tone="good" if calibrated and not off else "bad",
        figures=tuple(figures),
        notes=tuple(notes),
        data=data,
    )


def _unknown(
    why: str, figures: Sequence[tuple[str, str]] = (), data: dict | None = None, notes: Sequence[str] = ()
) -> Section:
    return Section(
        key="calibration",
        question=_QUESTION,
        answer=f"Cannot be said: {why}",
        tone="unknown",
        figures=tuple(figures),
        notes=tuple(notes),
        data=data or {},
    )
