"""Silences what libraries say that tells the person at the terminal nothing."""

from __future__ import annotations

import logging
import os
import warnings

import transformers

_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning's own use of an old torch name
    r"You have overridden `transfer_batch_to_device` in `LightningModule`",  # on purpose
)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What is meant for the user needs no line of source; what is meant for a developer does."""
    return (
        f"warning: {message}\n" if category is UserWarning else f"{filename}:{lineno}: {category.__name__}: {message}\n"
    )


def quieten() -> None:
    """Devices that are not there, tips, "`Trainer.fit` stopped", bars inside our own; warnings are kept."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = _format_warning
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
