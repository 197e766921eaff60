"""What a run that was killed and went on must share with one that was never interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import entities
from mlflow.tracking import MlflowClient

from sppo_lightning.io.files import TEMPORARY_SUFFIX

from .harness import Run

# These say where a run lies and how long it took.
OWN = ("key", "mlflow_run_id", "trainer.default_root_dir", "trainer.callbacks", "checksum")


def differences(run: Run, unbroken: Run) -> list[str]:
    """Everything in which the two runs differ, and everything that is wrong with the first; empty if nothing is."""
    found = [f"left behind: {path}" for path in run.folder.rglob(f"*{TEMPORARY_SUFFIX}")]
    ours, theirs = result(run.folder), result(unbroken.folder)
    found += [f"missing: {name}" for name in theirs.keys() - ours.keys()]
    found += [f"not in the unbroken run: {name}" for name in ours.keys() - theirs.keys()]
    found += [f"differs: {name}" for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
    return sorted(found) + record_differences(run, unbroken)


def result(folder: Path) -> dict[str, Any]:
    """What a run has made: exports byte for byte, round data, evaluations and the run's state without times."""
    contents: dict[str, Any] = {}
    for part in ("exports", "rounds", "eval", "run.json"):
        for path in [folder / part, *(folder / part).rglob("*")]:
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                contents[name] = (
                    _timeless(json.loads(path.read_bytes())) if path.suffix == ".json" else path.read_bytes()
                )
    return contents


def _timeless(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _timeless(v) for k, v in value.items() if not k.startswith("time/") and k not in OWN}


def record_differences(run: Run, unbroken: Run) -> list[str]:
    """Where MLflow's record has a gap, a repeat or another value, lacks a file, or is not one finished run."""
    runs = mlflow_runs(run)
    if [entry.info.status for entry in runs] != ["FINISHED"]:
        return [f"MLflow has {len(runs)} runs: {[entry.info.status for entry in runs]}"]
    ours, theirs = history(run), history(unbroken)
    found = [
        f"metric {key}: steps {steps(ours, key)}, unbroken {steps(theirs, key)}"
        for key in sorted(ours.keys() | theirs.keys())
        if steps(ours, key) != steps(theirs, key)
    ]
    found += [
        f"metric {key}: values differ"
        for key in sorted(ours.keys() & theirs.keys())
        if not key.startswith("time/") and sorted(ours[key]) != sorted(theirs[key])
    ]
    found += [f"MLflow's files: {name}" for name in sorted(artifacts(run) ^ artifacts(unbroken))]
    return found


def steps(metrics: dict[str, list[tuple[int, float]]], key: str) -> list[int]:
    """The steps at which a metric was logged, in order, with repeats."""
    return sorted(step for step, _ in metrics.get(key, []))


def history(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value) of the run in its MLflow store."""
    client = _client(run)
    (entry,) = mlflow_runs(run)
    return {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(entry.info.run_id, key)]
        for key in entry.data.metrics
    }


def mlflow_runs(run: Run) -> list[entities.Run]:
    """Every MLflow run in the store beside a run folder."""
    client = _client(run)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def artifacts(run: Run) -> set[str]:
    """The names of the files that MLflow keeps of the run."""
    (entry,) = mlflow_runs(run)
    root = Path(urlsplit(entry.info.artifact_uri).path)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def _client(run: Run) -> MlflowClient:
    return MlflowClient(f"sqlite:///{run.database}")
