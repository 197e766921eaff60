"""One run's folder: where things lie, who holds it, and what the run was started with.

runs/quickstart/   config.yaml  run.json  run.lock
  rounds/round_000/   checkpoints/last.ckpt   exports/round_000/ (the policy AFTER round 0)   eval/round_000/
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.files import sweep_temporaries
from sppo_lightning.io.sealed import read_sealed_json, write_sealed_json
from sppo_lightning.selfplay.store import RoundFolder

MISSING = "(not set)"


class RunFolder:
    """A run's folder, `trainer.default_root_dir`.

    Args:
        path: the folder; made by `lock`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / "run.lock", blocking=False)

    def __str__(self) -> str:
        return str(self.path)

    # --- where things lie --------------------------------------------------------------------------------------------

    def round(self, index: int, phase: int = 0) -> RoundFolder:
        """The data of round `index`; those of a later phase lie inside, `rounds/round_003/phase_1/`."""
        path = self.path / "rounds" / f"round_{index:03d}"
        return RoundFolder(path / f"phase_{phase}" if phase else path)

    def export(self, index: int) -> Path:
        """The Hugging Face folder of the policy after round `index`."""
        return self.path / "exports" / policy_name(index + 1)

    def phase_export(self, index: int, policy: str) -> Path:
        """Where a policy beside the main one lies until its round's export takes it over."""
        return self.path / "rounds" / f"round_{index:03d}" / "policies" / policy

    def evaluation(self, policy: str) -> Path:
        """What was measured of a policy: `policy` is its name, "start" or "round_002"."""
        return self.path / "eval" / policy

    @property
    def last_checkpoint(self) -> Path:
        """The training state the run goes on from."""
        return self.path / "checkpoints" / "last.ckpt"

    def policy_source(self, round_index: int, start: str, policy: str = "main") -> str:
        """Where the weights of a policy at round t lie: the start policy's, then in the export of the round before.

        Args:
            round_index: t.
            start: the start policy.
            policy: the main policy, or one that lies inside its export, such as "auxiliary" or "player_1".
        """
        if round_index == 0:
            return start
        export = self.export(round_index - 1)
        return str(export if policy == "main" else export / policy)

    @property
    def rounds_trained(self) -> int:
        """How many rounds the newest export has behind it; 0 where there is none."""
        exports = sorted(path.name for path in self.path.glob("exports/round_*") if path.name[6:].isdigit())
        return int(exports[-1][6:]) + 1 if exports else 0

    def last_exported(self, round_index: int) -> int:
        """The last round up to `round_index` whose pi_t lies on disk; 0 is the start policy's."""
        return next((t for t in range(round_index, 0, -1) if self.export(t - 1).is_dir()), 0)

    # --- one process at a time ---------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Takes the folder for this process until it ends, and sweeps what a killed one left half-written.

        The operating system drops the lock with the process, so nothing has to be cleaned up after a kill.

        Raises:
            RunFolderError: another process has it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise RunFolderError(
                f"{self.path}: another process is using this run folder. Wait for it or stop it, or give this run a "
                "folder of its own: --trainer.default_root_dir runs/NAME"
            ) from None
        except OSError as error:
            raise RunFolderError(f"{self.path}: the run folder cannot be written: {error.strerror}") from error
        sweep_temporaries(self.path)

    def release(self) -> None:
        """Lets another process have the folder."""
        self._lock.release()

    # --- run.json ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, Any]:
        """What run.json holds: `config`, `key`, `mlflow_run_id`, `finished_rounds`; empty for a new run.

        Raises:
            RunFolderError: the file is damaged, or is missing though the run has begun.
        """
        path = self.path / "run.json"
        if not path.is_file() and not self.has_begun:
            return {}
        return read_sealed_json(path)

    @property
    def has_begun(self) -> bool:
        """Something is on disk that was computed with the run's settings."""
        return self.last_checkpoint.is_file() or any(
            (self.path / name).is_dir() for name in ("rounds", "exports", "eval")
        )

    def update(self, **entries: Any) -> None:
        """Adds entries to run.json."""
        write_sealed_json(self.path / "run.json", self.state | entries, kind="run")

    def fix_settings(self, config: dict[str, Any], may_change: frozenset[str]) -> None:
        """Records this start's settings, or compares them with those the run began with.

        Until the first round is begun they may be corrected: a start that failed on a wrong path binds nobody.

        Args:
            config: flat settings, dotted key -> value.
            may_change: keys, or beginnings of keys, that do not decide what the run computes.

        Raises:
            RunFolderError: another setting differs; names it with both values.
        """
        if not self.has_begun:
            self.update(config=config, key=self.state.get("key", secrets.token_hex(16)))
            return
        began_with = self.state["config"]
        changed = sorted(
            key
            for key in began_with.keys() | config.keys()
            if began_with.get(key, MISSING) != config.get(key, MISSING)
            and not any(key == name or key.startswith(f"{name}.") for name in may_change)
        )
        if changed:
            lines = [f"  {key}: was {began_with.get(key, MISSING)}, now {config.get(key, MISSING)}" for key in changed]
            raise RunFolderError(
                f"{changed[0]} was changed, but {self.path} was started with another value.\n"
                + "\n".join(lines)
                + "\nGive the old values to go on, or start a new run: --trainer.default_root_dir runs/NAME (with "
                f"--from {self.path}@round_001 it shares this run's round 1)"
            )


def policy_name(round_index: int, policy: str = "main") -> str:
    """The name of pi_t, the policy that plays round `round_index`: "start", then "round_000", "round_001", ...

    A policy beside the main one has its own name behind it: "round_001/auxiliary".
    """
    name = "start" if round_index == 0 else f"round_{round_index - 1:03d}"
    return name if policy == "main" else f"{name}/{policy}"
