"""Where MLflow stores, and how a person gets there. Needs neither MLflow nor Lightning."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from sppo_lightning.io.secrets import redact


def default_tracking_uri(run_folder: str | Path) -> str:
    """Returns the SQLite store that the runs beside `run_folder` share."""
    return f"sqlite:///{(Path(run_folder).resolve().parent / 'mlflow.db').as_posix()}"


def is_server(uri: str) -> bool:
    """Returns whether a tracking server answers at this URI, rather than a database."""
    return uri.startswith(("http://", "https://", "databricks"))


class RunPage(NamedTuple):
    """How to look at a run: `command` starts MLflow's server on this machine ("" if one runs elsewhere)."""

    command: str
    url: str


def run_page(tracking_uri: str, experiment_id: str, run_id: str, port: int = 5000) -> RunPage:
    """Returns the command and the address that show a run in a browser on this machine.

    Args:
        tracking_uri: where MLflow stores; user name and password are not shown.
        experiment_id: as `RunLogger.experiment_id`.
        run_id: as `RunLogger.run_id`.
        port: where the server will listen, on the loopback interface only.
    """
    uri, command = redact(tracking_uri), ""
    server = uri.rstrip("/")
    if not is_server(uri):
        # One worker starts soonest and is plenty for one person. By this interpreter, because neither `mlflow` nor
        # `python` is on the path of someone who types `uv run`.
        command = (
            f"{shlex.quote(_interpreter())} -m mlflow server --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 "
            f"--port {port} --workers 1"
        )
        server = f"http://127.0.0.1:{port}"
    # Without the workflow type a fresh browser frames the run as an evaluation of prompts.
    return RunPage(command, f"{server}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning")


def without_credentials(uri: str) -> str:
    """Moves a server's user name and password to the variables MLflow reads, so that no error message shows them."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _interpreter() -> str:
    """This Python, from here where it lies below, else in full."""
    here, python = Path.cwd(), Path(sys.executable)
    return str(python.relative_to(here)) if python.is_relative_to(here) else str(python)
