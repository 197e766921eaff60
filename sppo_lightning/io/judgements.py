"""The judgement cache: answers of judges by the content they are about, in one SQLite file that processes share.

Each row carries a hash of itself, because SQLite does not notice a flipped bit in a number. A file that is damaged is
set aside, never trusted. Whoever is about to ask holds a claim on the row; it is alive as long as its owner's lock is,
which the operating system drops with the process, so a killed process leaves nothing that has to time out.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.crash_points import crash_point

_BUSY_S = 120.0
_OLD_S = 24 * 3600.0
_AT_ONCE = 500  # SQLite takes at least 999 variables in a statement
# The rollback journal, not WAL: WAL needs memory that processes share, which network file systems do not have.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS judgements "
    "(key BLOB PRIMARY KEY, judge TEXT NOT NULL, answer BLOB, seal BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID",
)
_T = TypeVar("_T")


class JudgementStore:
    """Answers by key. Safe under several processes and threads.

    Args:
        path: the file; made with its folder on first use.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._owners = self.path.with_name(f"{self.path.name}.claims")
        self._checked = False

    def __str__(self) -> str:
        return str(self.path)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """What is known.

        Args:
            keys: 20 bytes each.

        Returns:
            key -> answer; None: the judge was asked and has none. Keys that nobody was asked about are left out.

        Raises:
            RunFolderError: the file cannot be read.
        """

        def select(connection: sqlite3.Connection) -> dict[bytes, bytes | None]:
            found: dict[bytes, bytes | None] = {}
            for part in _parts(keys):
                query = f"SELECT key, judge, answer, seal FROM judgements WHERE key IN ({_marks(part)})"
                for key, judge, answer, seal in connection.execute(query, part):
                    if seal != _seal(key, judge, answer):
                        raise _DamageError(f"the row of {judge} with key {key.hex()} is not what was written")
                    found[key] = answer
            return found

        return self._transaction(select)

    def write(self, judge: str, answers: Mapping[bytes, bytes | None]) -> None:
        """Keeps answers; they are on the disk when this returns.

        Args:
            judge: who gave them, for people who look into the file.
            answers: by key; None: the judge has none, and another try would not give one.
        """
        rows = [(key, judge, answer, _seal(key, judge, answer)) for key, answer in answers.items()]
        self._transaction(lambda c: c.executemany("INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?)", rows))
        crash_point("after_judgements")

    def forget_unanswered(self, keys: Sequence[bytes]) -> None:
        """Has the judge asked again where it had no answer."""

        def delete(connection: sqlite3.Connection) -> None:
            for part in _parts(keys):
                connection.execute(f"DELETE FROM judgements WHERE answer IS NULL AND key IN ({_marks(part)})", part)

        self._transaction(delete)

    @contextmanager
    def claim(self, keys: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Yields those keys that this caller is to ask about: nobody knows them, and nobody alive is asking.

        What is not written before the block ends may be claimed by others.
        """
        self._owners.mkdir(parents=True, exist_ok=True)
        for lock in self._owners.iterdir():  # of killed processes; a young one may not be locked yet
            with suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > _OLD_S:
                    self._is_alive(lock.name)
        owner = secrets.token_hex(8)
        lock = self._owners / owner
        with FileLock(lock):
            mine = self._transaction(lambda connection: self._take(connection, keys, owner))
            try:
                yield mine
            finally:
                self._transaction(lambda c: c.execute("DELETE FROM claims WHERE owner = ?", (owner,)))
                lock.unlink(missing_ok=True)

    def _take(self, connection: sqlite3.Connection, keys: Sequence[bytes], owner: str) -> list[bytes]:
        mine: list[bytes] = []
        for part in _parts(keys):
            owners = f"SELECT DISTINCT owner FROM claims WHERE key IN ({_marks(part)})"
            for (other,) in connection.execute(owners, part).fetchall():
                if not self._is_alive(other):
                    connection.execute("DELETE FROM claims WHERE owner = ?", (other,))
            taken = {
                key
                for table in ("judgements", "claims")
                for (key,) in connection.execute(f"SELECT key FROM {table} WHERE key IN ({_marks(part)})", part)
            }
            free = [key for key in part if key not in taken]
            connection.executemany("INSERT INTO claims VALUES (?, ?)", [(key, owner) for key in free])
            mine += free
        return mine

    def _is_alive(self, owner: str) -> bool:
        lock = self._owners / owner
        try:
            with FileLock(lock, blocking=False):
                lock.unlink(missing_ok=True)
        except Timeout:
            return True
        return False

    # --- the file ----------------------------------------------------------------------------------------------------

    def _transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Does the work while no other process writes; a damaged file is set aside first and an empty one begun."""
        while True:
            inode = self.path.stat().st_ino if self.path.is_file() else None
            try:
                return self._attempt(work)
            except _DamageError as error:
                self._set_aside(inode, str(error))
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    self._set_aside(inode, str(error))
                    continue
                raise RunFolderError(
                    f"{self.path}: the judgement cache cannot be used: {error}. Make room on the disk or correct the "
                    "permissions, then give the same command again, or name another file: --data.judging.cache FILE"
                ) from error

    def _attempt(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Opened each time: a connection must not travel through a fork or between threads.
        with closing(sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not self._checked:
                (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if state != "ok":
                    raise _DamageError(state)
                for statement in _SCHEMA:
                    connection.execute(statement)
            done = work(connection)
            connection.execute("COMMIT")
            self._checked = True
            return done

    def _set_aside(self, inode: int | None, why: str) -> None:
        self._checked = False
        # Of several processes that see the damage, one moves the file, and nobody the one that is begun in its place.
        with FileLock(self.path.with_name(f"{self.path.name}.lock")):
            if not self.path.is_file() or self.path.stat().st_ino != inode:
                return
            aside = self.path.with_name(f"{self.path.name}.damaged-{secrets.token_hex(4)}")
            for suffix in ("", "-journal"):
                part = Path(f"{self.path}{suffix}")
                if part.is_file():
                    part.rename(f"{aside}{suffix}")
        warnings.warn(
            f"{self.path}: the judgement cache is damaged ({why}). It was moved to {aside.name} and nothing in it is "
            "used; what it held is judged again as it is needed",
            stacklevel=2,
        )


class _DamageError(Exception):
    """What was read is not what was written."""


def _seal(key: bytes, judge: str, answer: bytes | None) -> bytes:
    content = [key, judge.encode(), b"-" if answer is None else b"+" + answer]
    return hashlib.blake2b(b"".join(len(part).to_bytes(8, "big") + part for part in content), digest_size=8).digest()


def _parts(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    unique = list(dict.fromkeys(keys))
    for start in range(0, len(unique), _AT_ONCE):
        yield unique[start : start + _AT_ONCE]


def _marks(keys: Sequence[bytes]) -> str:
    return ", ".join("?" * len(keys))
