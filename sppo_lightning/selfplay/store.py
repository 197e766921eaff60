"""The round on disk: the one seam between playing a round and training on it.

    rounds/round_003/
      prompts.parquet                             written first
      round.json                                  how the data are made, and the hash of the prompts; begins the round
      candidates/00000-<hash>.parquet ...         pi_t's responses, in chunks
      opponents/history_1/00000-<hash>.parquet    other policies' responses
      preferences/<oracle>/self/00000-<hash>.parquet, .../history_1/...  (preferences/imported/ if imported)
      reward_model/                               where one is fitted; not needed any more once there are its
      rewards/self/00000-<hash>.parquet ...       verdicts, which count instead of the oracle's
      targets.parquet  pairs.parquet  quarantined.parquet (only where there are such prompts)
      reference_logps/previous/00000-<hash>.parquet ...
      manifest.json                               hashes of all of the above; written last, it commits the round
      phase_1/                                    the same again for the second fit of a round that has two

A chunk is complete or absent, and its name proves its content. A round without a manifest is unfinished: its whole
chunks are kept and the rest is made. A round with one is read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sppo_lightning import __version__
from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.chunks import find_chunk, read_chunk, write_chunk
from sppo_lightning.io.files import atomic_folder, link, link_tree, sha256_of
from sppo_lightning.io.sealed import read_sealed_json, write_sealed_json
from sppo_lightning.io.tables import read_table, write_table

MANIFEST = "manifest.json"
SETTINGS = "round.json"
PROMPTS = "prompts.parquet"
IMPORTED = "preferences/imported"
CANDIDATES = "candidates"
DRAWS = "draws"


class RoundFolder:
    """One round's files.

    Args:
        path: `<run>/rounds/round_003`; made on first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_committed(self) -> bool:
        """The round is complete: its manifest exists."""
        return (self.path / MANIFEST).is_file()

    @property
    def exists(self) -> bool:
        """The round was begun."""
        return (self.path / SETTINGS).is_file()

    def begin(self, settings: dict[str, Any], prompts: pa.Table) -> None:
        """Records what the round is made of and how, once; a round begun earlier keeps what it was begun with.

        Raises:
            RunFolderError: the record is gone, but what was made by it is there.
        """
        if self.exists:
            return
        if (self.path / "candidates").is_dir():
            raise RunFolderError(
                f"{self.path / SETTINGS} is missing, but the round has responses already. Restore it from a backup, or "
                "move the whole folder away to have the round played again"
            )
        digest = write_table(self.path / PROMPTS, prompts, kind="prompts")
        write_sealed_json(self.path / SETTINGS, {"settings": settings, "prompts_sha256": digest}, kind="round_settings")

    @property
    def settings(self) -> dict[str, Any]:
        """How the round is made, as `begin` recorded it."""
        return read_sealed_json(self.path / SETTINGS)["settings"]

    def read_prompts(self) -> pa.Table:
        """The prompts that the round was begun with.

        Raises:
            RunFolderError: they are missing or damaged.
        """
        return read_table(self.path / PROMPTS, read_sealed_json(self.path / SETTINGS)["prompts_sha256"])

    def verdicts(self, oracle: str) -> str:
        """Where the preferences lie: an imported round brought its own, every other one has its oracle's."""
        return IMPORTED if (self.path / IMPORTED).is_dir() else f"preferences/{oracle}"

    def share(self, target: RoundFolder, stages: Sequence[str]) -> None:
        """Begins another round with this one's prompts and settings and with some of its stages, as hard links.

        Args:
            target: the other round, not begun yet.
            stages: such as "candidates"; those that this round does not have are left out.
        """
        with atomic_folder(target.path, kind="fork") as temporary:
            for name in (SETTINGS, PROMPTS):
                link(self.path / name, temporary / name)
            for stage in stages:
                if (self.path / stage).is_dir():
                    link_tree(self.path / stage, temporary / stage)

    # --- tables and chunks -------------------------------------------------------------------------------------------

    def has_table(self, name: str) -> bool:
        """Whether `<name>.parquet` is on disk."""
        return (self.path / f"{name}.parquet").is_file()

    def write_table(self, name: str, table: pa.Table) -> None:
        """Writes `<name>.parquet`."""
        assert not self.is_committed, f"{self} is committed and read-only"
        write_table(self.path / f"{name}.parquet", table, kind=name)

    def read_table(self, name: str) -> pa.Table:
        """Reads `<name>.parquet`."""
        return read_table(self.path / f"{name}.parquet")

    def has_chunk(self, stage: str, index: int) -> bool:
        """Whether chunk `index` of a stage such as "candidates" or "preferences/StyleGame/self" is on disk."""
        return find_chunk(self.path / stage, index) is not None

    def write_chunk(self, stage: str, index: int, table: pa.Table) -> None:
        """Writes one chunk, atomically."""
        assert not self.is_committed, f"{self} is committed and read-only"
        write_chunk(self.path / stage, index, table, kind=stage.split("/")[0])

    def read_chunk(self, stage: str, index: int) -> pa.Table:
        """Reads one chunk and proves that it is what was written.

        Raises:
            RunFolderError: it is missing or damaged; names the file.
        """
        path = find_chunk(self.path / stage, index)
        if path is None:
            raise RunFolderError(f"{self.path / stage}: chunk {index:05d} is missing; restore it from a backup")
        return read_chunk(path)

    def read_stage(self, stage: str, num_chunks: int) -> pa.Table:
        """All chunks of a stage, in order."""
        return pa.concat_tables([self.read_chunk(stage, index) for index in range(num_chunks)])

    # --- commit ------------------------------------------------------------------------------------------------------

    def commit(self, *, round_index: int, global_step: int, policy: str, metrics: dict[str, float]) -> None:
        """Closes the round: hashes every file into the manifest, whose rename is the commit.

        Args:
            round_index: t.
            global_step: the training step at which the round's data were made; proves on resume that they belong there.
            policy: name of pi_t.
            metrics: what playing the round measured, as metric name to value.
        """
        files = {
            path.relative_to(self.path).as_posix(): {
                "rows": pq.read_metadata(path).num_rows,
                "sha256": sha256_of(path),
            }
            for path in sorted(self.path.rglob("*.parquet"))
        }
        manifest = {
            "round": round_index,
            "global_step": global_step,
            "policy": policy,
            "settings": self.settings,
            "metrics": metrics,
            "files": files,
            "code_version": __version__,
        }
        write_sealed_json(self.path / MANIFEST, manifest, kind="manifest")

    @property
    def manifest(self) -> dict[str, Any]:
        """The committed manifest."""
        return read_sealed_json(self.path / MANIFEST)

    def verify(self) -> dict[str, Any]:
        """Checks every file against the manifest, and returns it.

        Raises:
            RunFolderError: a file is missing or has changed; names it.
        """
        manifest = self.manifest
        if self.settings != manifest["settings"]:
            raise RunFolderError(f"{self.path / SETTINGS} is not the one that {self.path / MANIFEST} was made with")
        for name, entry in manifest["files"].items():
            path = self.path / name
            if not path.is_file():
                raise RunFolderError(
                    f"{path} is missing, but {self.path / MANIFEST} lists it. Restore it from a backup; the round "
                    "cannot be made again, because the policy that played it has moved on."
                )
            if sha256_of(path) != entry["sha256"]:
                raise RunFolderError(
                    f"{path} is damaged: its content is not what {self.path / MANIFEST} recorded. Restore it from a "
                    "backup; nothing has been trained on it."
                )
        return manifest


def slug(name: str) -> str:
    """A policy's name such as "history/1" as part of a file's name."""
    return name.replace("/", "_")


def opponents_stage(name: str) -> str:
    """Where an opponent's responses lie."""
    return f"opponents/{slug(name)}"


def logps_stage(name: str, mismatched: bool = False) -> str:
    """Where the log-probabilities under a frozen policy lie."""
    return f"reference_logps/{'mismatched_' if mismatched else ''}{slug(name)}"


def kept_candidates(folder: RoundFolder) -> dict[str, list[int]]:
    """Prompt id -> the candidates that are trained on, in the round's order; prompts without any are left out."""
    return kept_of(folder.read_table("targets"))


def kept_of(targets: pa.Table) -> dict[str, list[int]]:
    """The same from the table of targets, or a part of it."""
    kept: dict[str, list[int]] = {}
    for row in targets.to_pylist():
        if row["trained"]:
            kept.setdefault(row["prompt_id"], []).append(row["candidate"])
    return kept
