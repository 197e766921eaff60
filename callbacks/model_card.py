"""A model card in every export."""

from __future__ import annotations

import lightning.pytorch as pl
from sppo_lightning.callbacks.round_end import RoundEndCallback, run_loggers, self_play_data

from sppo_lightning import __version__
from sppo_lightning.io.files import atomic_write, read_json
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import policy_name

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
base_model: {base}
tags: [sppo_lightning, self-play, {objective_tag}]
---

# {name}

`{base}` after {rounds} of self-play with {objective}, judged by {oracle}.

| round | win rate vs start | vs previous round | KL to start (nats) |
|---|---|---|---|
{table}

Win rates are on {num_held_out} held-out prompts with 95 % intervals over prompts, by the judge that was trained on
unless the configuration says otherwise: a policy can learn to please one judge alone. The licence of `{base}` applies.

Made by `sppo_lightning` {version}; the run's `config.yaml` holds every setting.
"""


class ModelCard(RoundEndCallback):
    """Writes base model, method, judge and measured win rates into `exports/round_003/README.md`, and into MLflow."""

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        if not trainer.is_global_zero:
            return
        data = self_play_data(trainer)
        rows = []
        for index in range(data.first_round, round_index + 1):
            path = module.run_folder.evaluation(policy_name(index + 1)) / "metrics.json"
            if path.is_file():
                rows.append(_row(index, read_json(path)))
        objective = type(module.objective).__name__
        count = round_index + 1
        card = CARD.format(
            base=module.policy_source,
            objective=objective,
            objective_tag=objective.lower(),
            name=f"{module.run_folder.path.name}, {policy_name(count)}",
            rounds=f"{count} round" + "s" * (count > 1),
            oracle=data.oracle.name,
            table="\n".join(rows) or "| not evaluated | | | |",
            num_held_out=len(data.held_out_prompts),
            version=__version__,
        )
        with atomic_write(module.run_folder.export(round_index) / "README.md", kind="model_card") as temporary:
            temporary.write_text(card, encoding="utf-8")
        for logger in run_loggers(trainer):
            logger.log_description(card.partition("---\n\n")[2])  # without the hub's header


def _row(index: int, metrics: dict[str, float]) -> str:
    cells = [
        f"{metrics[f'round/win_rate_vs_{name}']:.3f} [{metrics[f'round/win_rate_vs_{name}_low']:.3f}, "
        f"{metrics[f'round/win_rate_vs_{name}_high']:.3f}]"
        for name in ("start", "previous")
    ]
    kl = f"{metrics['round/kl_to_start']:.2f}" if "round/kl_to_start" in metrics else "-"
    return f"| {index} | {cells[0]} | {cells[1]} | {kl} |"
