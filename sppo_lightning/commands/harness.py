"""The lm-eval harness on policies' folders: what alignment costs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.files import write_json_atomic


def run_harness(
    policies: Sequence[str],
    tasks: Sequence[str],
    *,
    tasks_from: str | None = None,
    limit: int | None = None,
    output: str | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Runs the tasks on each policy and prints the figures side by side, with the difference from the first.

    Args:
        policies: folders or hub ids. Give the start policy first: then the difference is the alignment tax.
        tasks: names of the harness's tasks; most of them are downloaded.
        tasks_from: a folder of task files of your own.
        limit: only so many examples of each task.
        output: a json file.

    Returns:
        policy -> task -> metric -> value.

    Raises:
        ConfigError: the harness is not installed, or does not know a task.
        DataError: a policy's folder is missing.
    """
    try:
        import lm_eval
        import torch
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f'test --lm_eval needs the harness ({error}): pip install "sppo-lightning[lm-eval]"'
        ) from error
    for policy in policies:
        if policy.startswith((".", "/", "runs")) and not Path(policy, "config.json").is_file():
            raise DataError(f"--policy {policy}: is no policy's folder: it has no config.json")
    manager = TaskManager(include_path=tasks_from)
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise ConfigError(
            f"--lm_eval {unknown[0]}: the harness has no such task; `lm-eval ls tasks` lists them, and --tasks_from "
            "FOLDER adds your own"
        )
    measured = {}
    for policy in policies:
        print(f"{policy}: {', '.join(tasks)}", flush=True)
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": resolve(policy)},
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            device="cuda" if torch.cuda.is_available() else "cpu",
            verbosity="ERROR",
        )
        measured[policy] = {task: _metrics(values) for task, values in found["results"].items()}
    print("\n".join(_table(measured)))
    if output:
        write_json_atomic(output, measured, kind="harness")
        print(f"written to {output}")
    return measured


def _metrics(values: dict[str, Any]) -> dict[str, float]:
    """Metrics and their standard errors; the harness writes "acc,none" for an unfiltered accuracy."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and "," in name
    }


def _table(measured: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    first, *_ = measured
    lines = []
    for task, metrics in measured[first].items():
        for metric in (name for name in metrics if "_stderr" not in name):
            lines.append(f"{task}, {metric}")
            for policy, tasks in measured.items():
                change = f"  {tasks[task][metric] - metrics[metric]:+.4f}" if policy != first else ""
                error = tasks[task].get(f"{metric}_stderr")
                spread = f" +- {error:.4f}" if error is not None else ""
                lines.append(f"  {policy}  {tasks[task][metric]:.4f}{spread}{change}")
    return lines
