"""What a run that was killed and went on must share with one that was never interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    return sorted(found) + metric_differences(run, unbroken)


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


def metric_differences(run: Run, unbroken: Run) -> list[str]:
    """Where the metric history has a gap, a duplicate or another value; where there is not exactly one finished run."""
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
    return found


def steps(metrics: dict[str, list[tuple[int, float]]], key: str) -> list[int]:
    """The steps at which a metric was logged, in order, with repeats."""
    return sorted(step for step, _ in metrics.get(key, []))


def history(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value) of the one run in the run's MLflow store."""
    client = MlflowClient(f"sqlite:///{run.database}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    assert len(runs) == 1, f"{run.database} has {len(runs)} runs"
    assert runs[0].info.status == "FINISHED", f"MLflow says {runs[0].info.status}"
    run_id = runs[0].info.run_id
    return {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]
        for key in runs[0].data.metrics
    }
