"""A model card in every export."""

from __future__ import annotations

import lightning.pytorch as pl
from sppo_lightning.callbacks.round_end import RoundEndCallback, run_loggers, self_play_data

from sppo_lightning import __version__
from sppo_lightning.io.files import atomic_write
from sppo_lightning.reporting.record import read_run
from sppo_lightning.reporting.tables import as_markdown, rounds_table
from sppo_lightning.reporting.warnings import warnings_of
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.run_folder import policy_name

EVALUATED = (
    "Win rates are on {} held-out prompts with 95 % intervals over prompts, by the judge that was trained on unless "
    "the configuration says otherwise: a policy can learn to please one judge alone. Gaps are lower bounds on how far "
    "a policy can be exploited; KL is in nats."
)
HEADER = """\
---
library_name: transformers
pipeline_tag: text-generation
base_model: {base}
tags: [sppo_lightning, self-play, {objective_tag}]
---

# {name}

`{base}` after {rounds} of self-play with {objective}, judged by {oracle}.

"""
BODY = """\
{warnings}{table}

{evaluated} The licence of `{base}` applies.

Made by `sppo_lightning` {version}; the run's `config.yaml` holds every setting.
"""


class ModelCard(RoundEndCallback):
    """Writes base model, method, judge, warnings and the table of rounds into `exports/round_003/README.md`.

    MLflow shows warnings and table as the run's description.
    """

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        if not trainer.is_global_zero:
            return
        data = self_play_data(trainer)
        run = read_run(module.run_folder.path)
        objective = type(module.objective).__name__
        count, held_out = round_index + 1, len(data.held_out_prompts)
        header = HEADER.format(
            base=module.policy_source,
            objective=objective,
            objective_tag=objective.lower(),
            name=f"{module.run_folder.path.name}, {policy_name(count)}",
            rounds=f"{count} round" + "s" * (count > 1),
            oracle=data.oracle.name,
        )
        body = BODY.format(
            base=module.policy_source,
            warnings="".join(f"> {warning}\n\n" for warning in warnings_of(run)),
            table=as_markdown(rounds_table(run)),
            evaluated=EVALUATED.format(held_out) if held_out else "The policy was not evaluated on held-out prompts.",
            version=__version__,
        )
        with atomic_write(module.run_folder.export(round_index) / "README.md", kind="model_card") as temporary:
            temporary.write_text(header + body, encoding="utf-8")
        # MLflow folds a description after a few lines: what was measured comes first.
        for logger in run_loggers(trainer):
            logger.log_description(body)
