"""The run's page, kept up to date."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from sppo_lightning.callbacks.round_end import RoundEndCallback, run_loggers, self_play_data

from sppo_lightning.io.files import atomic_write
from sppo_lightning.reporting.figures import on_paper
from sppo_lightning.reporting.page import render
from sppo_lightning.reporting.record import read_run
from sppo_lightning.training.module import PolicyModule

REPORT_FILE = "report.html"


class RunReport(RoundEndCallback):
    """Writes `report.html` into the run folder at each round's end, and the same page and its figures into MLflow.

    It reads the run folder alone, as `python -m sppo_lightning report` does; callbacks that measure come before it.
    MLflow also learns which prompts the run is about.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the prompts as the run's input."""
        data = self_play_data(trainer)
        for logger in run_loggers(trainer):
            logger.log_prompts(
                "training",
                source=data.prompts_source,
                digest=data.prompts.digest,
                counts={"training": len(data.prompts.train), "held out": len(data.held_out_prompts)},
            )

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        self._write(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Once more, for what callbacks behind this one measured of the last round."""
        assert isinstance(pl_module, PolicyModule)
        self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, module: PolicyModule) -> None:
        if trainer.is_global_zero:
            write_report(trainer, module.run_folder.path)


def write_report(trainer: pl.Trainer, run: Path) -> None:
    """Writes the page of a run folder there and into MLflow, unless it is there as it should be. Rank 0 alone."""
    path = run / REPORT_FILE
    page, pictures = render([read_run(run)])
    if path.is_file() and path.read_text(encoding="utf-8") == page:
        return
    # The file last: where it is as it should be, the loggers have it.
    for logger in run_loggers(trainer):
        logger.log_text(page, REPORT_FILE)
        for picture in pictures:
            logger.log_text(on_paper(picture.svg), f"figures/{picture.key}.svg")
    with atomic_write(path, kind="report") as temporary:
        temporary.write_text(page, encoding="utf-8")
