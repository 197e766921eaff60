"""The audit's promises at full size: simulated judges whose answer is known, and measured games if a file is given.

    python benchmarks/audit.py [--games games_prd_human.npz]

Prints each figure beside the bar it must meet, and exits with 1 if one does not. Takes about 7 minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from sppo_lightning.commands.audit_games import games_of
from sppo_lightning.functional.calibration import fit_scale
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.transitivity import transitivity_test
from sppo_lightning.functional.win_total_chain import Counts
from sppo_lightning.io.files import write_json_atomic
from sppo_lightning.io.votes_npz import read_votes_npz

JUDGES, PROMPTS, K = 500, 80, 5
LEVEL = 0.05
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


class Measurement(NamedTuple):
    """A figure and the closed range it must lie in."""

    name: str
    measured: float
    lowest: float = -np.inf
    highest: float = np.inf

    @property
    def holds(self) -> bool:
        return self.lowest <= self.measured <= self.highest

    @property
    def rule(self) -> str:
        if np.isinf(self.highest):
            return f">= {self.lowest:g}"
        return f"<= {self.highest:g}" if np.isinf(self.lowest) else f"{self.lowest:g} to {self.highest:g}"


SCORES: dict[str, Draw] = {
    "normal, sd 0.5": lambda rng, shape: rng.normal(0, 0.5, shape),
    "normal, sd 1": lambda rng, shape: rng.normal(0, 1, shape),
    "normal, sd 2": lambda rng, shape: rng.normal(0, 2, shape),
    "all equal": lambda rng, shape: np.zeros(shape),
    "two classes": lambda rng, shape: 3.0 * rng.integers(0, 2, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(2, shape),
    "the same at every prompt": lambda rng, shape: np.broadcast_to(rng.normal(0, 1, (shape[0], 1, K)), shape),
}
"""Bradley-Terry scores from which judges are drawn; nothing in the test knows which."""


def votes_of(lowest: int, highest: int, rng: np.random.Generator) -> Counts:
    """[J, B, K, K] how many votes each pair got."""
    upper = np.triu(rng.integers(lowest, highest + 1, (JUDGES, PROMPTS, K, K)), 1)
    return upper + upper.swapaxes(-1, -2)


def cast(log_odds: Array, votes: Counts, rng: np.random.Generator) -> Counts:
    upper = np.triu(rng.binomial(votes, expit(log_odds)), 1)
    return upper + np.swapaxes(np.triu(votes, 1) - upper, -1, -2)


def log_odds_of(scores: Array) -> Array:
    return scores[..., :, None] - scores[..., None, :]


def random_rings(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Counts, Counts]:
    """Winners and losers [..., 3] of one cyclic triad a game."""
    ring = np.argsort(rng.random((*shape, K)), axis=-1)[..., :3]
    return ring, np.roll(ring, -1, axis=-1)


def false_alarms() -> Iterator[Measurement]:
    for name, draw in SCORES.items():
        rng = np.random.default_rng(0)
        votes = votes_of(1, 3, rng)
        wins = cast(log_odds_of(draw(rng, (JUDGES, PROMPTS, K))), votes, rng)
        p = transitivity_test(wins, votes, num_samples=199).p_value_J
        yield Measurement(f"false alarms in %, 1-3 votes, scores {name}", 100 * (p <= LEVEL).mean(), 3, 7)


def power() -> Iterator[Measurement]:
    for name in ("normal, sd 0.5", "normal, sd 1", "normal, sd 2"):
        for lowest, highest in ((5, 5), (1, 3)):
            rng = np.random.default_rng(1)
            votes = votes_of(lowest, highest, rng)
            log_odds = log_odds_of(SCORES[name](rng, (JUDGES, PROMPTS, K)))
            winner, loser = random_rings((JUDGES, PROMPTS), rng)  # one of the ten triads
            j, b = (axis[..., None] for axis in np.indices((JUDGES, PROMPTS)))
            log_odds[j, b, winner, loser] = np.log(0.8 / 0.2)
            log_odds[j, b, loser, winner] = -np.log(0.8 / 0.2)
            p = transitivity_test(cast(log_odds, votes, rng), votes, num_samples=99).p_value_J
            label = "5 votes" if lowest == 5 else "1-3 votes"
            yield Measurement(f"power in %, 1 cyclic triad in 10, {label}, {name}", 100 * (p <= LEVEL).mean(), 90)


def temperatures() -> Iterator[Measurement]:
    for temperature in (0.5, 1.0, 2.0, 5.0):
        errors, covered = [], []
        for seed in range(500):
            rng = np.random.default_rng(seed)
            log_odds = rng.normal(0, 1.5, 2000)
            labels = (rng.random(2000) < expit(log_odds)).astype(float)
            fit = fit_scale(expit(temperature * log_odds), labels, np.arange(2000))
            assert fit is not None
            errors.append(abs(1 / fit.estimate / temperature - 1))
            covered.append(1 / fit.high <= temperature <= 1 / fit.low)
        name = f"temperature {temperature}, 2,000 pairs"
        yield Measurement(f"{name}: median error in %, 50 seeds", 100 * float(np.median(errors[:50])), highest=5)
        yield Measurement(f"{name}: coverage in %, 500 simulations", 100 * float(np.mean(covered)), 92, 98)


def measured_games(path: Path) -> Iterator[Measurement]:
    games = games_of(read_votes_npz(path))
    test = transitivity_test(games.wins_BKK[None], games.votes_BKK[None])
    yield Measurement(f"{path.name}: prompts with a cycle", float(test.cyclic_prompts_J[0]), 28, 28)
    yield Measurement(f"{path.name}: p-value", float(test.p_value_J[0]), LEVEL)
    rng = np.random.default_rng(2)
    for share in (1.0, 0.5, 0.25):
        wins, votes = games.wins_BKK.copy(), games.votes_BKK
        winner, loser = random_rings((len(wins),), rng)
        b = np.arange(len(wins))[:, None]
        planted = (rng.random(len(wins)) < share)[:, None]
        # The same votes, all for the cycle.
        wins[b, winner, loser] = np.where(planted, votes[b, winner, loser], wins[b, winner, loser])
        wins[b, loser, winner] = np.where(planted, 0, wins[b, loser, winner])
        p = transitivity_test(wins[None], votes[None]).p_value_J[0]
        yield Measurement(f"... a unanimous cycle at {share:.0%} of the prompts: p-value", float(p), highest=LEVEL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=Path, help="games_prd_human.npz, or another file with 28 cyclic prompts")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/audit.json"), help="where the figures go")
    arguments = parser.parse_args()
    sections = [false_alarms(), power(), temperatures()]
    if arguments.games:
        sections.append(measured_games(arguments.games))
    records = []
    for section in sections:
        start = time.process_time()
        for row in section:
            print(f"{'ok' if row.holds else 'BROKEN':<7} {row.name:<74} {row.measured:>8.3g}   {row.rule}", flush=True)
            records.append(row._asdict() | {"holds": bool(row.holds)})
        print(f"        {time.process_time() - start:.0f} s of CPU\n", flush=True)
    write_json_atomic(arguments.out, records)
    broken = sum(not record["holds"] for record in records)
    print(f"{len(records) - broken} of {len(records)} hold; wrote {arguments.out}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
