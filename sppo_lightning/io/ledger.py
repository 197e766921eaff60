"""What a run has spent on its judges: counted before a query is sent, over all its processes and restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sppo_lightning.io.sealed import read_sealed_json, write_sealed_json

Cost = tuple[int, float]
"""Queries, and US dollars."""

_ROUNDING = 1e-9  # of adding up cents


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that may be spent; None is no limit."""

    queries: int | None = None
    usd: float | None = None


class Ledger:
    """A run's spending by purpose, in one small file that its processes share.

    Args:
        path: `<run>/judging.json`; made on first use.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def _lock(self) -> FileLock:
        # One each time: a lock must not travel through a fork or between threads.
        return FileLock(self.path.with_name(f".{self.path.name}.lock"))

    def spent(self, purpose: str | None = None) -> tuple[int, float]:
        """Queries and US dollars so far.

        Args:
            purpose: such as "round_003"; not set: all of them together.

        Raises:
            RunFolderError: the file is damaged.
        """
        chosen = [entry for name, entry in self._read().items() if purpose in (None, name)]
        return int(sum(queries for queries, _ in chosen)), sum(usd for _, usd in chosen)

    def reserve(self, purpose: str, costs: Sequence[Cost], limit: Limit) -> int:
        """Books as many items, in their order, as the limit has room for.

        What is booked counts as spent even if the process is killed before it asks: the limit is never exceeded.

        Args:
            purpose: what they are for.
            costs: [N] the queries of each item, and the most US dollars that they can cost.
            limit: over all purposes.

        Returns:
            how many items were booked, from 0 to N.

        Raises:
            RunFolderError: the file is damaged or cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            queries, usd = self.spent()
            booked = 0
            for more_queries, more_usd in costs:
                queries, usd = queries + more_queries, usd + more_usd
                if limit.queries is not None and queries > limit.queries:
                    break
                if limit.usd is not None and usd > limit.usd + _ROUNDING:
                    break
                booked += 1
            if booked:
                taken = costs[:booked]
                self._add(purpose, sum(q for q, _ in taken), sum(u for _, u in taken))
        return booked

    def correct(self, purpose: str, usd: float) -> None:
        """Adds what booked items cost beyond what was booked; negative where they cost less."""
        with self._lock:
            self._add(purpose, 0, usd)

    def _add(self, purpose: str, queries: int, usd: float) -> None:
        entries = self._read()
        before = entries.get(purpose, [0, 0.0])
        entries[purpose] = [before[0] + queries, before[1] + usd]
        write_sealed_json(self.path, {"spent": entries}, kind="judging")

    def _read(self) -> dict[str, list[float]]:
        return dict(read_sealed_json(self.path)["spent"]) if self.path.is_file() else {}
