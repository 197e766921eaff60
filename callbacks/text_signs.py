"""How the answers themselves change, without a judge; and the alarm for answers that are safe but empty."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import lightning.pytorch as pl
import numpy as np
from sppo_lightning.callbacks.measured import log_measured
from sppo_lightning.callbacks.round_end import RoundEndCallback

from sppo_lightning.evaluation.responses import stored_responses
from sppo_lightning.functional.intervals import mean_interval
from sppo_lightning.functional.safe_but_empty import SafeButEmpty, safe_but_empty
from sppo_lightning.functional.text_diversity import cross_bleu, self_bleu
from sppo_lightning.functional.text_signs import is_empty, is_refusal, repetition
from sppo_lightning.io.files import read_json
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import RunFolder, policy_name

# Above this share of repeated 4-grams a text is counted as one phrase over and over.
_REPETITIVE = 0.5


class TextSigns(RoundEndCallback):
    """Watches the new policy's held-out answers: refused, empty, repetitive, alike, long; and raises an alarm.

    Writes `eval/round_003/text.json`, then logs `round/refusal_share`, `round/empty_share`, `round/repetition_share`,
    and with 95 % intervals over prompts `round/silent_share` (refused or empty), `round/self_bleu` (answers to one
    prompt), `round/cross_bleu` (answers to different prompts) and `round/held_out_tokens`. `round/safe_but_empty` is 1
    where the alarm of `functional.safe_but_empty` fires, which is a warning, too.

    Needs the responses that `HeldOutEvaluation` keeps.

    Args:
        num_prompts: held-out prompts whose answers are read, at most.
        num_samples: answers of a prompt that are read, at most; the evaluation may have drawn more for other ends.
    """

    def __init__(self, num_prompts: int = 128, num_samples: int = 4) -> None:
        self.num_prompts = num_prompts
        self.num_samples = num_samples

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        run, policy = module.run_folder, policy_name(round_index + 1)
        if self._texts(run, "start") and self._texts(run, policy):
            measured = log_measured(trainer, module, round_index, "text", lambda: self._measure(run, policy))
            if measured["round/safe_but_empty"] and trainer.is_global_zero:
                signals = "; ".join(self._compare(run, measured, policy).signals)
                warnings.warn(
                    f"round {round_index}: the policy's answers may be safe but empty: {signals}. The judge does not "
                    "object: read them in the report's examples before going on",
                    stacklevel=2,
                )

    def _measure(self, run: RunFolder, policy: str) -> dict[str, float]:
        measured = self._signs(run, policy)
        return measured | {"round/safe_but_empty": float(self._compare(run, measured, policy).fires)}

    def _compare(self, run: RunFolder, measured: dict[str, float], policy: str) -> SafeButEmpty:
        start, now = (
            {name.removeprefix("round/"): value for name, value in signs.items()}
            for signs in (self._signs(run, "start"), measured)
        )
        rates = run.evaluation(policy) / "metrics.json"
        win_rate_high = read_json(rates).get("round/win_rate_vs_start_high") if rates.is_file() else None
        return safe_but_empty(start, now, win_rate_high)

    def _signs(self, run: RunFolder, policy: str) -> dict[str, float]:
        groups = self._texts(run, policy)
        return text_signs(
            [[text for text, _ in group] for group in groups], [[tokens for _, tokens in group] for group in groups]
        )

    def _texts(self, run: RunFolder, policy: str) -> list[list[tuple[str, int]]]:
        """[prompts][responses] a policy's held-out answers and their lengths in tokens; empty where none are stored."""
        groups: dict[str, list[tuple[str, int]]] = {}
        for row in stored_responses(run.evaluation(policy), self.num_samples).to_pylist():
            groups.setdefault(row["prompt_id"], []).append((row["text"], len(row["token_ids"])))
        return [groups[prompt_id] for prompt_id in sorted(groups)[: self.num_prompts]]


def text_signs(texts_BK: Sequence[Sequence[str]], tokens_BK: Sequence[Sequence[int]]) -> dict[str, float]:
    """The metrics of `TextSigns` but for the alarm.

    Args:
        texts_BK: [prompts][responses] answers.
        tokens_BK: [prompts][responses] their lengths in tokens.
    """
    empty_BK = [[is_empty(text) for text in texts] for texts in texts_BK]
    refused_BK = [[is_refusal(text) for text in texts] for texts in texts_BK]
    repeated_BK = [[repetition(text) > _REPETITIVE for text in texts] for texts in texts_BK]
    silent_B = [np.mean(np.logical_or(empty, refused)) for empty, refused in zip(empty_BK, refused_BK, strict=True)]
    signs = {
        "round/empty_share": float(np.mean([np.mean(empty) for empty in empty_BK])),
        "round/refusal_share": float(np.mean([np.mean(refused) for refused in refused_BK])),
        "round/repetition_share": float(np.mean([np.mean(repeated) for repeated in repeated_BK])),
    }
    for name, values_B in (
        ("silent_share", silent_B),
        ("self_bleu", self_bleu(texts_BK)),
        ("cross_bleu", cross_bleu(texts_BK)),
        ("held_out_tokens", [np.mean(tokens) for tokens in tokens_BK]),
    ):
        interval = mean_interval(values_B)
        signs[f"round/{name}"] = interval.estimate
        signs[f"round/{name}_low"] = interval.low
        signs[f"round/{name}_high"] = interval.high
    return signs
