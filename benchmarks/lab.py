"""What theory promises about preference games, measured at full size.

    python benchmarks/lab.py [--out runs/benchmarks/lab.json]

Prints a line for each promise with the measured figure and the rule it is held to, and writes them as JSON. The exit
code is 1 where a rule is broken. `tests/functional/test_games_*.py` hold the same rules at small size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.special import logsumexp
from table_fits import (
    exact_step,
    fit,
    population_pairs,
    population_rows,
    sampled_pairs,
    sampled_rounds,
    sampled_rows,
    total_variation,
)

from sppo_lightning import objectives
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.games import Array, check_game, duality_gap, kl_divergence, von_neumann_winner, win_rates
from sppo_lightning.functional.local_rates import kl_factor
from sppo_lightning.functional.regularised_games import n_player_gap, regularised_equilibrium, regularised_gap
from sppo_lightning.functional.tabular import ONPO, SPPO, TabularMethod, hedge_bound, normalise, play
from sppo_lightning.functional.tabular_dpo import IterativeDPO
from sppo_lightning.functional.tabular_regularised import EGPO, INPO, TDMNPO, NashMD
from sppo_lightning.io.files import write_json_atomic

GAMES: dict[str, Callable[[int], Array]] = {
    "rps(.9,.9,.9)": lambda seed: game_zoo.rps(0.9, 0.9, 0.9),
    "rps(.9,.7,.8)": lambda seed: game_zoo.rps(0.9, 0.7, 0.8),
    "random(20)": lambda seed: game_zoo.random(20, seed),
    "bradley_terry(20)": lambda seed: game_zoo.bradley_terry(20, seed),
    "condorcet(20)": lambda seed: game_zoo.condorcet(20, seed),
}
CYCLIC = ("rps(.9,.9,.9)", "rps(.9,.7,.8)", "random(20)")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure of one promise: it must lie in [lowest, highest]."""

    name: str
    measured: float
    lowest: float = -np.inf
    highest: float = np.inf

    @property
    def holds(self) -> bool:
        return self.lowest <= self.measured <= self.highest

    @property
    def rule(self) -> str:
        if self.lowest == -np.inf:
            return f"<= {self.highest:.3g}"
        if self.highest == np.inf:
            return f">= {self.lowest:.3g}"
        return f"{self.lowest:.3g} .. {self.highest:.3g}"


def draw(name: str, num_seeds: int) -> tuple[Array, Array, Array]:
    """[S, N, N] games with [S, N] start and reference log-policies, softmax of N(0, 1/4) logits."""
    games = np.stack([GAMES[name](seed) for seed in range(num_seeds)])
    shape = (2, games.shape[-1])
    logits = np.stack([0.5 * np.random.default_rng(seed).standard_normal(shape) for seed in range(num_seeds)])
    return games, normalise(logits[:, 0]), normalise(logits[:, 1])


def kl_curve(method: TabularMethod, name: str, num_steps: int, num_seeds: int = 3) -> tuple[Array, Array, Array]:
    """[T + 1, S] KL of the regularised equilibrium to each round's policy, with the games and their equilibria."""
    games, starts, references = draw(name, num_seeds)
    assert method.tau is not None
    aims = np.exp([regularised_equilibrium(p, method.tau, np.exp(r)) for p, r in zip(games, references, strict=True)])
    return kl_divergence(aims, play(method, games, starts, references, num_steps)), games, aims


def equilibria() -> Iterator[Measurement]:
    winners = [(game(seed), von_neumann_winner(game(seed))) for game in GAMES.values() for seed in range(5)]
    yield Measurement(
        name="LP: |value - 1/2|", measured=max(abs(winner.value - 0.5) for _, winner in winners), highest=1e-8
    )
    yield Measurement(
        name="LP: gap of the winner",
        measured=max(float(duality_gap(game, winner.policy_N)) for game, winner in winners),
        highest=1e-7,
    )
    games, policies, references = (array[0] for array in draw("random(20)", 1))
    policy, reference = np.exp(policies), np.exp(references)
    symmetric = [n_player_gap(games, policy, np.repeat(policy[None], n - 1, axis=0), 0.1, reference) for n in (2, 3, 5)]
    half = regularised_gap(games, policy, 0.1, reference) / 2
    yield Measurement(
        name="n-player gap - gap_tau / 2, n = 2, 3, 5", measured=float(np.abs(symmetric - half).max()), highest=1e-12
    )


def population_fits() -> Iterator[Measurement]:
    games, starts, _ = draw("random(20)", 3)
    cases = list(zip(games, starts, strict=True))
    for eta in (0.1, 1.0, 2.0, 10.0):
        pairs = max(
            total_variation(fit(objectives.ONPO(eta), population_pairs(p, s), {"auxiliary": s}), exact_step(p, s, eta))
            for p, s in cases
        )
        yield Measurement(name=f"pairs, target eta/2, eta {eta:g}: TV to the step", measured=pairs, highest=1e-6)
    for eta in (0.1, 1.0, 2.0):
        distances = []
        for p, s in cases:
            log_z = logsumexp(s + eta * win_rates(p, np.exp(s)))
            data = population_rows(p, s) | {"log_z_R": torch.full((len(s),), log_z, dtype=torch.float64)}
            fitted = fit(objectives.SPPO(eta, log_z="estimate"), data, {"previous": s})
            distances.append(total_variation(fitted, exact_step(p, s, eta)))
        yield Measurement(name=f"SPPO (3.4), exact log Z, eta {eta:g}: TV", measured=max(distances), highest=1e-6)
    for eta, highest in ((1.0, 1e-3), (2.0, 5e-3)):
        distances = [
            total_variation(fit(objectives.SPPO(eta), population_rows(p, s), {"previous": s}), exact_step(p, s, eta))
            for p, s in cases
        ]
        yield Measurement(name=f"SPPO (3.7), eta {eta:g}: largest TV", measured=max(distances), highest=highest)
        yield Measurement(name=f"SPPO (3.7), eta {eta:g}: smallest TV", measured=min(distances), lowest=1e-5)


def sampled_fits() -> Iterator[Measurement]:
    games, starts, _ = draw("random(20)", 5)
    without, with_self, with_self_short, pairs = [], [], [], []
    for seed, (p, s) in enumerate(zip(games, starts, strict=True)):
        rng = np.random.default_rng(seed)
        full, short = exact_step(p, s, 1.0), exact_step(p, s, 0.8)
        rows = sampled_rows(p, s, 10_000, rng)
        without.append(total_variation(fit(objectives.SPPO(1.0), rows, {"previous": s}), full))
        fitted = fit(objectives.SPPO(1.0), sampled_rows(p, s, 10_000, rng, with_self=True), {"previous": s})
        with_self.append(total_variation(fitted, full))
        with_self_short.append(total_variation(fitted, short))
        labelled = sampled_pairs(p, s, 10_000, rng)
        pairs.append(total_variation(fit(objectives.ONPO(1.0), labelled, {"auxiliary": s}), full))
    where = "M 10,000, eta 1"
    yield Measurement(name=f"sampled SPPO, K 5, {where}: TV", measured=max(without), highest=0.002)
    yield Measurement(name=f"... with itself, {where}: TV to eta", measured=min(with_self), lowest=0.004)
    yield Measurement(name=f"... with itself, {where}: TV to 0.8 eta", measured=max(with_self_short), highest=0.002)
    yield Measurement(name=f"binary independent pairs, {where}: TV", measured=max(pairs), highest=0.008)


def sppo_rates() -> Iterator[Measurement]:
    horizons = 2 ** np.arange(6, 15)
    short = horizons <= 4096
    for name, tolerance in (
        ("rps(.9,.9,.9)", 0.2),
        ("rps(.9,.7,.8)", 0.2),
        ("random(20)", 0.1),
        ("bradley_terry(20)", 0.1),
    ):
        games, starts, references = draw(name, 5)
        gaps, shares = [], []
        for num_rounds in horizons.tolist():
            eta = np.sqrt(8 * np.log(games.shape[-1]) / num_rounds)
            average = np.exp(play(SPPO(eta), games, starts, references, num_rounds - 1)).mean(axis=0)
            gaps.append(duality_gap(games, average))
            shares.append(gaps[-1] / (2 * hedge_bound(starts, eta, num_rounds)))
        for which, label in ((short, "T <= 4096"), (slice(None), "T <= 16384")):
            slope = np.polyfit(np.log(horizons[which]), np.log(np.array(gaps)[which]), 1)[0].mean()
            yield Measurement(
                name=f"SPPO {name}: slope of the average gap, {label}",
                measured=slope,
                lowest=-0.5 - tolerance,
                highest=-0.5 + tolerance,
            )
        yield Measurement(name=f"SPPO {name}: gap / Hedge bound", measured=float(np.max(shares)), highest=1.0)


def regularised_methods() -> Iterator[Measurement]:
    for name in CYCLIC:
        for method in (INPO(0.5, 0.1), EGPO(0.5, 0.1)):
            curve, games, aims = kl_curve(method, name, 400)
            yield Measurement(name=f"{method} {name}: KL after 400", measured=curve[-1].max(), highest=1e-8)
            if name == "rps(.9,.9,.9)" and isinstance(method, INPO):
                near = (curve < 1e-6) & (curve > 1e-12)
                errors = []
                for s, (game, aim) in enumerate(zip(games, aims, strict=True)):
                    steps = np.flatnonzero(near[:, s])
                    measured = np.exp(np.polyfit(steps, np.log(curve[steps, s]), 1)[0])
                    errors.append(abs((1 - measured) / (1 - kl_factor("inpo", game, aim, 0.5, 0.1)) - 1))
                yield Measurement(name=f"{method} {name}: error of 1 - rate", measured=max(errors), highest=0.02)
    for name in CYCLIC[:2]:
        yield Measurement(
            name=f"INPO(eta=2, tau=.02) {name}: smallest late KL",
            measured=kl_curve(INPO(2.0, 0.02), name, 2000)[0][-200:].min(),
            lowest=0.1,
        )
        yield Measurement(
            name=f"EGPO(eta=2, tau=.02) {name}: KL after 2000",
            measured=kl_curve(EGPO(2.0, 0.02), name, 2000)[0][-1].max(),
            highest=1e-8,
        )
    for name in CYCLIC:
        constant = kl_curve(NashMD(0.1, eta=0.5), name, 2000)[0][-1]
        decaying = kl_curve(NashMD(0.1), name, 2000)[0][-1]
        yield Measurement(name=f"Nash-MD eta .5 {name}: smallest KL", measured=constant.min(), lowest=1e-6)
        yield Measurement(name=f"Nash-MD eta .5 {name}: largest KL", measured=constant.max(), highest=1e-3)
        yield Measurement(name=f"Nash-MD decaying {name}: KL after 2000", measured=decaying.max(), highest=1e-6)
    for weights in ((1.0, 1.0), (0.25, 0.75), (1.0, 1.0, 1.0)):
        newest, mixture = (kl_curve(TDMNPO(2.0, 0.025, weights, m), CYCLIC[0], 2000)[0][-1] for m in (False, True))
        yield Measurement(name=f"TD-MNPO {weights} against pi_t: KL", measured=newest.max(), highest=1e-12)
        yield Measurement(name=f"TD-MNPO {weights} against the mixture: KL", measured=mixture.min(), lowest=0.1)


def unregularised_methods() -> Iterator[Measurement]:
    for name in ("rps(.9,.7,.8)", "random(20)"):
        games, starts, references = draw(name, 3)
        onpo, sppo = (np.exp(play(method, games, starts, references, 10_000)) for method in (ONPO(0.2), SPPO(0.2)))
        share = duality_gap(games, onpo[:-1].mean(axis=0)) / duality_gap(games, sppo[:-1].mean(axis=0))
        yield Measurement(name=f"ONPO / SPPO average gap, {name}, eta .2, T 10^4", measured=share.max(), highest=1.0)
        if name.startswith("rps"):
            onpo_last, sppo_last = duality_gap(games, onpo[-1]), duality_gap(games, sppo[-1])
            yield Measurement(name=f"ONPO last gap, {name}, eta .2, T 10^4", measured=onpo_last.max(), highest=2e-3)
            yield Measurement(name=f"SPPO last gap, {name}, eta .2, T 10^4", measured=sppo_last.min(), lowest=0.1)
    for name in ("bradley_terry(20)", "rps(.9,.7,.8)"):
        games, starts, references = draw(name, 3)
        last = duality_gap(games, np.exp(play(IterativeDPO(0.1), games, starts, references, 300)[251:]))
        if name.startswith("rps"):
            mean = last.mean(axis=0).min()
            yield Measurement(name=f"iterative DPO {name}: mean gap, rounds 251-300", measured=mean, lowest=0.5)
        else:
            yield Measurement(name=f"iterative DPO {name}: last gap", measured=last[-1].max(), highest=1e-3)


def rounds_of_samples() -> Iterator[Measurement]:
    for name in ("rps(.9,.7,.8)", "random(20)"):
        games, starts, _ = draw(name, 3)
        eta = np.sqrt(8 * np.log(games.shape[-1]) / 200)
        for num_prompts, tolerance in ((200, 0.02), (2000, 0.005)):
            differences = []
            for seed in range(3):
                rng = np.random.default_rng(seed)
                sampled, exact = sampled_rounds(games[seed], starts[seed], eta, 200, num_prompts, rng)
                differences.append(abs(sampled - exact))
            yield Measurement(
                name=f"200 sampled rounds {name}, M {num_prompts}: |gap - exact|",
                measured=max(differences),
                highest=tolerance,
            )


def real_games(path: Path) -> Iterator[Measurement]:
    """SPPO's average policy on games that people's votes made, from the uniform start."""
    eta, num_steps = 0.5, 2000
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, probs_BNN in arrays.items():
        if probs_BNN.ndim != 3 or probs_BNN.shape[1] != probs_BNN.shape[2] or probs_BNN.max() > 1:
            continue  # vote counts and labels beside the games
        games_BNN = check_game(probs_BNN)
        start_BN = np.zeros(games_BNN.shape[:2])
        average_BN = np.exp(play(SPPO(eta), games_BNN, start_BN, start_BN, num_steps - 1)).mean(axis=0)
        excess_B = duality_gap(games_BNN, average_BN) / 2
        bound = np.log(games_BNN.shape[-1]) / (eta * num_steps) + eta / 8
        label = f"{path.stem} {name}, {len(games_BNN)} games: max_i (P p)_i - 1/2"
        yield Measurement(name=f"{label}, worst", measured=excess_B.max(), highest=0.007)
        yield Measurement(name=f"{label} / Hedge bound", measured=excess_B.max() / bound, highest=1.0)


def _name(section: Callable[..., Iterator[Measurement]]) -> str:
    return section.func.__name__ if isinstance(section, partial) else section.__name__


def main() -> int:
    parser = argparse.ArgumentParser(description="What theory promises about preference games, measured at full size.")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/lab.json"), help="where the figures go")
    parser.add_argument("--games", type=Path, help="an .npz file of real games, each array [B, N, N]")
    args = parser.parse_args()
    out = args.out
    torch.set_num_threads(1)
    records = []
    for section in (
        equilibria,
        population_fits,
        sampled_fits,
        sppo_rates,
        regularised_methods,
        unregularised_methods,
        rounds_of_samples,
        *([partial(real_games, args.games)] if args.games else []),
    ):
        start = time.process_time()
        for row in section():
            print(f"{'ok' if row.holds else 'BROKEN':<7} {row.name:<66} {row.measured:>10.3g}   {row.rule}", flush=True)
            records.append(
                {
                    "section": _name(section),
                    "name": row.name,
                    "measured": float(row.measured),
                    "rule": row.rule,
                    "holds": bool(row.holds),
                }
            )
        print(f"        {_name(section)}: {time.process_time() - start:.1f} s of CPU\n", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out, records)
    broken = sum(not record["holds"] for record in records)
    print(f"{len(records) - broken} of {len(records)} hold; wrote {out}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
