"""What the logger's arguments become in MLflow's own terms."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from sppo_lightning.errors import WaitingForLabels
from sppo_lightning.io.secrets import mask_secrets, redact
from sppo_lightning.training.data import RunPaused

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

# What every MLflow server since 1.28 takes; the whole configuration is an artifact.
_MAX_PARAM_CHARS = 500
_MAX_DIGEST_CHARS = 36


def flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Parameters as (dotted name, text), without secrets."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", redact(str(mask_secrets(value, str(key))))[:_MAX_PARAM_CHARS]


def table_cell(value: Any) -> Any:
    """A cell of a table; a browser's JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def final_status(status: str) -> str:
    """FINISHED, FAILED or KILLED, from what Lightning says and the exception in flight."""
    if status in ("success", "finished") or isinstance(sys.exception(), RunPaused | WaitingForLabels):
        return "FINISHED"
    # Lightning says "failed" for Ctrl-C and SIGTERM too; only the exception in flight tells them apart.
    return "KILLED" if isinstance(sys.exception(), (KeyboardInterrupt, SystemExit)) else "FAILED"


def prompt_dataset(context: str, source: str, digest: str, counts: Mapping[str, int]) -> DatasetInput:
    """Prompts as an input of a run, named by their file.

    Args:
        context: what they are for, which the run's page shows beside the name.
        source: file, folder or hub id.
        digest: hexadecimal, cut to what MLflow stores.
        counts: how many, by use.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    shown = redact(source)
    dataset = Dataset(
        name=PurePath(shown).name or shown,
        digest=digest[:_MAX_DIGEST_CHARS],
        source_type="local",
        source=json.dumps({"uri": shown}),
        profile=json.dumps(dict(counts)),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
