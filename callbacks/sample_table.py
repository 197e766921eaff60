"""A table of sample responses each round, for reading."""

from __future__ import annotations

import lightning.pytorch as pl
import pyarrow.compute as pc
from sppo_lightning.callbacks.round_end import RoundEndCallback, run_loggers

from sppo_lightning.training.module import PolicyModule


class SampleTable(RoundEndCallback):
    """Logs the best and the worst response to a few prompts of the played round, with their win rates.

    Args:
        num_prompts: rows of the table.
    """

    def __init__(self, num_prompts: int = 8) -> None:
        self.num_prompts = num_prompts

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        folder = module.run_folder.round(round_index)
        prompts = folder.read_prompts().slice(0, self.num_prompts).to_pylist()
        shown = pc.field("prompt_id").isin([prompt["prompt_id"] for prompt in prompts])
        candidates = folder.read_stage("candidates", folder.settings["num_chunks"]).filter(shown).to_pylist()
        texts = {(row["prompt_id"], row["candidate"]): row["text"] for row in candidates}
        win_rates: dict[str, list[tuple[float, int]]] = {}
        for row in folder.read_table("targets").filter(shown).to_pylist():
            if row["win_rate"] == row["win_rate"]:  # not judged is NaN
                win_rates.setdefault(row["prompt_id"], []).append((row["win_rate"], row["candidate"]))
        rows = []
        for prompt in prompts:
            judged = win_rates.get(prompt["prompt_id"])
            if not judged:
                continue
            (best_rate, best), (worst_rate, worst) = max(judged), min(judged)
            rows.append(
                {
                    "prompt": prompt["messages"][-1]["content"],
                    "best": texts[prompt["prompt_id"], best],
                    "best win rate": round(best_rate, 3),
                    "worst": texts[prompt["prompt_id"], worst],
                    "worst win rate": round(worst_rate, 3),
                }
            )
        for logger in run_loggers(trainer):
            logger.log_table("samples", rows, step=round_index)
