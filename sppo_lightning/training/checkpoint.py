"""Checkpoints that a kill cannot tear, taken where Lightning can really resume."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.files import atomic_write
from sppo_lightning.training.run_folder import RunFolder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; reads tensors and plain values only, after checking every byte.

    Lightning's own save renames from TMPDIR, which on another file system is a copy that a kill can truncate.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves atomically."""
        with atomic_write(Path(path), kind="checkpoint") as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads with `weights_only=True`, whatever is asked for.

        Raises:
            RunFolderError: the file is damaged.
        """
        try:
            with zipfile.ZipFile(path) as archive:  # torch.save writes a zip file with a checksum for every entry
                damaged = archive.testzip()
            if damaged is None:
                return torch.load(path, map_location=map_location or "cpu", weights_only=True)
            reason = f"{damaged} has a wrong checksum"
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
        raise RunFolderError(
            f"{path} is damaged ({reason}). Restore it from a backup, or delete it: the same command then trains again "
            "from the rounds on disk, without generating or judging anything anew"
        )


class RoundCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt`: every n steps, and last of all at the end of each epoch.

    Never on the last batch of an epoch: Lightning resumes such a checkpoint without calling the end of that epoch or
    the start of the next, so an export would be lost (8 of 90 kills with ModelCheckpoint). A `Checkpoint` so that
    Lightning calls it after every other callback: what they do at a round's end is done again if a kill comes first.

    Args:
        every_n_steps: distance within an epoch.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves inside an epoch."""
        if (batch_idx + 1) % self.every_n_steps == 0 and batch_idx + 1 < trainer.num_training_batches:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves between epochs."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(RunFolder(trainer.default_root_dir).last_checkpoint, weights_only=False)
