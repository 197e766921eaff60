"""How a run asks its judges: what is kept, what may be spent, which pairs are left out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sppo_lightning.errors import ConfigError
from sppo_lightning.io.judgements import JudgementStore
from sppo_lightning.io.ledger import Ledger, Limit
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.desk import Desk
from sppo_lightning.oracles.kept import kept, paying
from sppo_lightning.oracles.score_to_preference import Scorer
from sppo_lightning.types import Progress

CACHE = "judgements.db"
LEDGER = "judging.json"
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How a run asks its judges. Judges whose verdicts cost nothing are neither kept nor counted.

    Args:
        cache: where verdicts are kept, so that no pair is judged twice: auto (judgements.db beside the run's folder,
            shared by all runs there), off, or a file.
        max_queries: judging stops before the run's first query beyond so many, each order of a pair being one. The same
            command with a higher limit goes on.
        max_usd: judging stops before the query that could exceed so many US dollars.
        usd_per_query: what a query costs. Not set: what the judge itself knows.
        pair_share: how many of a round's pairs are judged, as a share in (0, 1]; which ones is drawn so that every
            response is judged about equally often. Held-out responses are always judged in full.
        certainty: for data.pairing BestWorst: a prompt's pairs are judged only until its best and its worst response
            are known with this certainty, from 0.5 to below 1. Saves most with many candidates.
        max_quarantined: share of a round's prompts that may have no usable verdicts; with more the run stops.
        retry_failed: ask again where a judge had no verdict before.
        block_pairs: pairs asked about at a time, the most that a kill loses.

    Raises:
        ConfigError: a value out of its range.
    """

    cache: str = "auto"
    max_queries: int | None = None
    max_usd: float | None = None
    usd_per_query: float | None = None
    pair_share: float = 1.0
    certainty: float | None = None
    max_quarantined: float = 0.05
    retry_failed: bool = False
    block_pairs: int = 256

    def __post_init__(self) -> None:
        for name, ok, rule in (
            ("max_queries", self.max_queries is None or self.max_queries >= 0, "must not be negative"),
            ("max_usd", self.max_usd is None or self.max_usd >= 0, "must not be negative"),
            ("usd_per_query", self.usd_per_query is None or self.usd_per_query >= 0, "must not be negative"),
            ("pair_share", 0 < self.pair_share <= 1, "must lie in (0, 1]"),
            ("certainty", self.certainty is None or 0.5 <= self.certainty < 1, "must be from 0.5 to below 1"),
            ("max_quarantined", 0 <= self.max_quarantined <= 1, "must lie in [0, 1]"),
            ("block_pairs", self.block_pairs >= 1, "must be at least 1"),
            ("cache", bool(self.cache), "must be auto, off or a file"),
        ):
            if not ok:
                raise ConfigError(f"data.judging.{name} {rule}, got {getattr(self, name)!r}")

    @property
    def leaves_out_pairs(self) -> bool:
        """Whether a round's matrix has gaps."""
        return self.pair_share < 1 or self.certainty is not None

    def check(self, oracles: Sequence[PreferenceOracle]) -> None:
        """Refuses what these judges cannot do, before anything is generated.

        Raises:
            ConfigError: names the key to change.
        """
        if (self.max_queries, self.max_usd) != (None, None) and not [
            judge for oracle in oracles for judge in paying(oracle)
        ]:
            warnings.warn(
                f"data.judging: nobody is counted against the budget; {' and '.join(o.name for o in oracles)} costs "
                "nothing",
                stacklevel=2,
            )
        for oracle in oracles:
            self.check_price(oracle)
        if not self.leaves_out_pairs:
            return
        key = "pair_share" if self.pair_share < 1 else "certainty"
        for oracle in oracles:
            if not oracle.judges_pairs_alone:
                raise ConfigError(
                    f"data.judging.{key}: a verdict of {oracle.name} depends on all of a prompt's responses, so pairs "
                    "cannot be left out; leave it at its default"
                )
            if oracle.asked_by == "response":
                raise ConfigError(
                    f"data.judging.{key}: {oracle.name} works response by response, so leaving out pairs would save "
                    "nothing; leave it at its default"
                )

    def keep(self, oracle: PreferenceOracle, run: Path, purpose: str, progress: Progress) -> PreferenceOracle:
        """The judge, asked within the budget and about nothing that is known.

        Args:
            oracle: the judge.
            run: the run's folder.
            purpose: what is judged, such as "round_003".
            progress: tells the person who waits.

        Raises:
            ConfigError: dollars are limited, and nobody says what the judge costs.
        """
        self.check_price(oracle)
        return kept(oracle, self.desk(run, purpose, progress))

    def check_price(self, oracle: PreferenceOracle) -> None:
        """Refuses a judge without a price: booked at nothing, it would not be held by a limit in dollars.

        Raises:
            ConfigError: dollars are limited, and nobody says what the judge costs.
        """
        if self.max_usd is None or self.usd_per_query is not None:
            return
        for judge in paying(oracle):
            if judge.usd_per_query is None:
                raise ConfigError(
                    f"data.judging.max_usd: nobody says what a query to {type(judge).__name__} costs; add "
                    "--data.judging.usd_per_query 0.001, or the judge's own prices where it has any"
                )

    def desk(self, run: Path, purpose: str, progress: Progress) -> Desk:
        """Where answers come from; see `keep`."""
        path = run.absolute().parent / CACHE if self.cache == "auto" else Path(self.cache)
        return Desk(
            None if self.cache == "off" else JudgementStore(path),
            Ledger(run / LEDGER),
            purpose,
            progress=progress,
            limit=Limit(queries=self.max_queries, usd=self.max_usd),
            usd_per_query=self.usd_per_query,
            block=self.block_pairs,
            retry_failed=self.retry_failed,
        )

    def estimate(self, oracle: PreferenceOracle, run: Path, purpose: str, pairs: int, responses: int) -> list[str]:
        """What judging a round can cost at most, a line for each judge that costs something.

        Args:
            oracle: the judge.
            run: the run's folder.
            purpose: such as "round 3".
            pairs: that may be judged.
            responses: they are made of.
        """
        spent_queries, spent_usd = Ledger(run / LEDGER).spent()
        lines = []
        for judge in paying(oracle):
            if isinstance(judge, Scorer) or judge.asked_by == "response":
                queries, what = responses, f"{responses:,} responses"
            else:
                queries, what = pairs * judge.queries_per_pair, f"{pairs:,} pairs"
                what += {1: "", 2: " x 2 orders"}.get(judge.queries_per_pair, f" x {judge.queries_per_pair}")
            price = self.usd_per_query if self.usd_per_query is not None else judge.usd_per_query
            cost = "" if price is None else f", about ${queries * price:,.2f}"
            name = type(judge).__name__ if isinstance(judge, Scorer) else judge.name
            lines.append(
                f"{purpose}: {name} is asked about at most {what} = {queries:,} queries{cost}"
                + _left("max_queries", self.max_queries, spent_queries)
                + _left("max_usd", self.max_usd, round(spent_usd, 4))
            )
        return lines


def _left(name: str, limit: _Number | None, spent: _Number) -> str:
    return "" if limit is None else f"; left of data.judging.{name} {limit:,}: {max(limit - spent, 0):,}"
