"""How a run comes into an MLflow store: the database, the experiment and the run, each found if it is there already.

A kill can come between any two of these steps; none of them may leave a second run or a store that cannot be opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sppo_lightning.errors import ConfigError
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.io.files import TEMPORARY_SUFFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The tag by which a run folder finds a run that was made for it just before a kill.
RUN_KEY = "sppo_lightning.key"


def create_database(uri: str, artifact_location: str) -> None:
    """Makes the SQLite database of `uri`, complete or not at all; what exists, or is no SQLite file, is left alone.

    MLflow builds one in dozens of migrations over seconds, not in one transaction; a kill among them leaves tables that
    it meets again with "table already exists", for good. So a new one is built aside and renamed, by one process at a
    time.

    Args:
        uri: the tracking URI.
        artifact_location: where MLflow's default experiment keeps files.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.engine import make_url

    database = make_url(uri).database if uri.startswith("sqlite:") else None
    if not database or database == ":memory:" or Path(database).exists():
        return
    path = Path(database)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another run was faster
            return
        temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
        for left_behind in path.parent.glob(f"{temporary.name}*"):  # SQLite's journal, too
            left_behind.unlink()
        crash_point("before_write:mlflow_database")
        store = SqlAlchemyStore(f"sqlite:///{temporary}", artifact_location)
        store.engine.dispose()
        crash_point("before_rename:mlflow_database")
        temporary.rename(path)
    crash_point("after_rename:mlflow_database")


def find_or_create_experiment(client: MlflowClient, name: str, artifact_location: str | None, store: str) -> str:
    """The id of the experiment of this name.

    Args:
        client: MLflow's.
        name: the experiment's name.
        artifact_location: where it keeps its files if it is new; None leaves that to the store.
        store: the tracking URI, for the error.

    Raises:
        ConfigError: the experiment is deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_location)
        except MlflowException:
            # A run that started at the same moment was faster.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise ConfigError(
            f"the MLflow experiment {name!r} in {store} is deleted: restore it (mlflow experiments restore -x "
            f"{found.experiment_id}) or set trainer.logger.init_args.experiment_name to another name"
        )
    return found.experiment_id


def find_run(client: MlflowClient, experiment_id: str, key: str) -> str | None:
    """The id of the run that carries this key, if there is one."""
    found = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
    return found[0].info.run_id if found else None
