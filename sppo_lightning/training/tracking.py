"""The MLflow record of an experiment: one run a run folder, every metric exactly once.

MLflow appends: a metric logged again is stored twice, a parameter logged again with another value is an error, and a
run that ended stays ended. An interrupted experiment replays the steps since its last checkpoint, so this logger asks
the store what it already has and drops the repeats. Whoever logs must log before the checkpoint is written: what is
lost between the two is never replayed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.io.secrets import redact
from sppo_lightning.training.run_folder import RunFolder
from sppo_lightning.training.tracking_entities import final_status, flatten, prompt_dataset, table_cell
from sppo_lightning.training.tracking_store import RUN_KEY, create_database, find_or_create_experiment, find_run
from sppo_lightning.training.tracking_uri import default_tracking_uri, is_server, without_credentials

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

# The characters every MLflow store takes in a metric's name.
_NOT_IN_A_METRIC_NAME = re.compile(r"[^a-zA-Z0-9_/. -]")
_MAX_PARAMS_A_CALL = 100
# MLflow lists its tables in one tag of at most 8000 characters; a table that falls off the list shows as plain JSON.
_MAX_LISTED_TABLES = 40


class RunLogger(MLFlowLogger):
    """Records one experiment in one MLflow run, and goes on in that run after an interruption.

    Everything is written before a call returns, by rank zero alone. System metrics, autologging and MLflow's usage
    reports stay off. Checkpoints are not uploaded: they stay in the run folder.

    Example:
        `RunLogger("runs/quickstart")` records in `runs/mlflow.db`, with artifacts under `runs/mlflow_artifacts`.

    Args:
        run_folder: the experiment's folder. Its name is the run's name, its parent holds the default database.
        run_id: the MLflow run to go on in; null begins a new one, whose id `run_id` then tells.
        tracking_uri: where MLflow stores; null means $MLFLOW_TRACKING_URI, then `mlflow.db` beside the run folder.
        experiment_name: null means $MLFLOW_EXPERIMENT_NAME, then "sppo_lightning".
        artifact_location: where a new experiment keeps its files; null means `mlflow_artifacts` beside the run folder,
            or what the server decides where `tracking_uri` is one.

    Raises:
        ConfigError: MLflow cannot open the store.
        RunFolderError: on first use, where the store does not have `run_id`.
    """

    def __init__(
        self,
        run_folder: str | Path,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        experiment_name: str | None = None,
        artifact_location: str | None = None,
    ) -> None:
        self._run_folder = Path(run_folder).resolve()
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(self._run_folder)
        if artifact_location is None and not is_server(uri):
            # MLflow's own default for a database is ./mlruns, wherever the process happens to stand.
            artifact_location = (self._run_folder.parent / "mlflow_artifacts").as_uri()
        # The base class opens the store here and now: on many nodes at once that would race to create one database.
        # A server's address opens nothing, and ranks other than zero never use their client.
        rank = getattr(rank_zero_only, "rank", 0)
        uri = without_credentials(uri) if rank == 0 else "http://127.0.0.1"
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # "Creating initial MLflow database tables" is news to nobody.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        try:
            if rank == 0:
                create_database(uri, artifact_location or "")
            super().__init__(
                experiment_name=experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "sppo_lightning",
                run_name=self._run_folder.name,
                tracking_uri=uri,
                artifact_location=artifact_location,
                run_id=run_id,
            )
        except Exception as error:
            # `from None`: the errors below carry the URI, password included.
            raise ConfigError(
                f"MLflow cannot open its store at {redact(uri)}: {redact(str(error))}. Check "
                "trainer.logger.init_args.tracking_uri or $MLFLOW_TRACKING_URI"
            ) from None
        self._status_found: str | None = None
        self._stored_keys: frozenset[str] = frozenset()
        self._steps: dict[str, set[int]] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """The MLflow client; its first use begins the run, or sets it back to RUNNING."""
        if not self._initialized:
            if self._run_id is None:
                self._begin_run()
            else:
                self._resume_run(self._run_id)
            self._initialized = True
        return self._mlflow_client

    @property
    def save_dir(self) -> str:
        """The run folder, which Lightning then reports as `trainer.log_dir`."""
        return str(self._run_folder)

    @property
    def tracking_uri(self) -> str:
        """Where MLflow stores, without user name and password."""
        return redact(self._tracking_uri)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Stores each metric unless the run already has this name at this step.

        Args:
            metrics: name -> value; NaN and infinities are stored. Characters that MLflow refuses become "_".
            step: a whole number; None counts as 0.

        Raises:
            ValueError: the step is not a whole number.
        """
        from mlflow.entities import Metric

        whole_step = int(step or 0)
        if step is not None and whole_step != step:
            raise ValueError(f"RunLogger.log_metrics: a step must be a whole number, got {step} for {sorted(metrics)}")
        client, run_id = self.experiment, self.run_id
        named = {_NOT_IN_A_METRIC_NAME.sub("_", name): float(value) for name, value in metrics.items()}
        fresh = {name: value for name, value in named.items() if whole_step not in self._stored_steps(name)}
        if not fresh:
            return
        now_ms = int(time.time() * 1000)
        # Synchronous whatever the environment says: what has returned must survive a kill.
        client.log_batch(run_id, [Metric(k, v, now_ms, whole_step) for k, v in fresh.items()], synchronous=True)
        for name in fresh:
            self._steps[name].add(whole_step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace) -> None:
        """Stores the parameters that the run does not have yet, under dotted names like the configuration's keys.

        A run keeps a parameter's first value: one that differs now is named in a warning.
        """
        from mlflow.entities import Param

        client, run_id = self.experiment, self.run_id
        given = dict(flatten(vars(params) if isinstance(params, Namespace) else params))
        stored = client.get_run(run_id).data.params
        changed = [
            f"{key}: {stored[key]} (now {value})" for key, value in given.items() if stored.get(key, value) != value
        ]
        if changed:
            rank_zero_warn("MLflow keeps the first value of a run's parameters: " + "; ".join(changed))
        fresh = [Param(key, value) for key, value in given.items() if key not in stored]
        for start in range(0, len(fresh), _MAX_PARAMS_A_CALL):
            client.log_batch(run_id, params=fresh[start : start + _MAX_PARAMS_A_CALL], synchronous=True)

    @rank_zero_only
    def log_table(self, key: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Stores rows as the table `tables/<key>_round_003.json`; the same round again replaces it.

        Args:
            key: the table's name.
            rows: column -> value (text, numbers, booleans or None; NaN and infinities become empty cells).
            step: the round.
        """
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = {"columns": columns, "data": [[table_cell(row.get(column)) for column in columns] for row in rows]}
        path = f"tables/{key}_round_{step:03d}.json"
        self.experiment.log_text(self.run_id, json.dumps(table, ensure_ascii=False), path)
        # MLflow shows as tables what this tag lists; its own log_table writes the same two things, but appends.
        tag, entry = "mlflow.loggedArtifacts", {"path": path, "type": "table"}
        listed = json.loads(self.experiment.get_run(self.run_id).data.tags.get(tag, "[]"))
        if entry not in listed:
            self.experiment.set_tag(self.run_id, tag, json.dumps([*listed, entry][-_MAX_LISTED_TABLES:]))

    @rank_zero_only
    def log_text(self, text: str, artifact_file: str) -> None:
        """Stores text, without passwords in URIs, as the artifact `artifact_file`; a second call replaces it."""
        self.experiment.log_text(self.run_id, redact(text), artifact_file)

    @rank_zero_only
    def log_description(self, markdown: str) -> None:
        """Sets the run's description, which its page shows as Markdown; a second call replaces it."""
        self.experiment.set_tag(self.run_id, "mlflow.note.content", redact(markdown))

    @rank_zero_only
    def log_figure(self, figure: Figure, artifact_file: str) -> None:
        """Stores a figure as the artifact `artifact_file`, such as "gap/round_003.png"; a second call replaces it."""
        self.experiment.log_figure(self.run_id, figure, artifact_file)

    @rank_zero_only
    def log_prompts(self, context: str, *, source: str, digest: str, counts: Mapping[str, int]) -> None:
        """Records prompts as an input of the run, where they come from and not what they say; twice is once.

        Args:
            context: what they are for, such as "training".
            source: file, folder or hub id; credentials in it are not stored.
            digest: SHA-256 of their content.
            counts: how many they are, by use.
        """
        self.experiment.log_inputs(self.run_id, [prompt_dataset(context, source, digest, counts)])

    @rank_zero_only
    def log_artifact_once(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Stores a file that never changes, unless the run has one of that name and size.

        Args:
            path: the file, stored as it is.
            artifact_path: the artifact folder it goes into; None means the top.
        """
        path = Path(path)
        name = f"{artifact_path}/{path.name}" if artifact_path else path.name
        stored = self.experiment.list_artifacts(self.run_id, artifact_path)
        # By size too: a kill in the middle of the copy leaves a shorter file.
        if not any(item.path == name and item.file_size == path.stat().st_size for item in stored):
            self.experiment.log_artifact(self.run_id, str(path), artifact_path)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Ends the run as FINISHED, FAILED or KILLED (Ctrl-C, SIGTERM). Logging can still go on afterwards."""
        if self._initialized:
            self.experiment.set_terminated(self.run_id, final_status(status))

    @rank_zero_only
    def leave(self) -> None:
        """Sets the run's status back to what this logger found: for figures added to a run from outside."""
        if self._initialized and self._status_found is not None:
            self.experiment.update_run(self.run_id, status=self._status_found)

    def _begin_run(self) -> None:
        from mlflow.tracking.context.registry import resolve_tags

        self._experiment_id = find_or_create_experiment(
            self._mlflow_client, self._experiment_name, self._artifact_location, self.tracking_uri
        )
        key = RunFolder(self._run_folder).state.get("key")
        # A kill may have come before anybody could note the run's id.
        self._run_id = find_run(self._mlflow_client, self._experiment_id, key) if key else None
        if self._run_id is not None:
            self._resume_run(self._run_id)
            return
        # resolve_tags adds what MLflow's pages show of a run's origin: user, program, git commit.
        tags = resolve_tags(self.tags) | ({RUN_KEY: key} if key else {})
        run = self._mlflow_client.create_run(self._experiment_id, tags=tags, run_name=self._run_name)
        crash_point("after_mlflow_run")
        self._run_id = run.info.run_id

    def _resume_run(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            run = self._mlflow_client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RunFolderError(
                f"{self._run_folder}: its MLflow run {run_id} is not in {self.tracking_uri}. Bring that "
                "store back or set $MLFLOW_TRACKING_URI to where it is; to begin a new MLflow run instead, delete "
                "`mlflow_run_id` from the run folder's run.json"
            ) from None
        if run.info.lifecycle_stage == "deleted":
            raise RunFolderError(
                f"{self._run_folder}: its MLflow run {run_id} in {self.tracking_uri} is deleted: restore "
                f"it (mlflow runs restore --run-id {run_id})"
            )
        self._status_found = run.info.status
        self._mlflow_client.update_run(run_id, status="RUNNING")
        self._experiment_id = run.info.experiment_id
        self._stored_keys = frozenset(run.data.metrics)

    def _stored_steps(self, name: str) -> set[int]:
        """The steps at which the store has this metric, read once, when the metric is first logged."""
        if name not in self._steps:
            history = self.experiment.get_metric_history(self.run_id, name) if name in self._stored_keys else []
            self._steps[name] = {metric.step for metric in history}
        return self._steps[name]
