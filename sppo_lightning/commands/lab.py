"""`python -m sppo_lightning lab`: plays preference games whose answer is known, with every method's exact update."""

from __future__ import annotations

from typing import Any

import numpy as np

from sppo_lightning.commands.lab_config import Game, parse_config
from sppo_lightning.commands.lab_figure import draw_gaps
from sppo_lightning.commands.lab_play import Curves, measure
from sppo_lightning.errors import ConfigError
from sppo_lightning.functional import game_diagnostics
from sppo_lightning.functional.games import Array, von_neumann_winner
from sppo_lightning.functional.tabular import TabularMethod
from sppo_lightning.io.files import write_json_atomic

# Gaps and divergences below this are what float64 leaves of zero.
_ROUNDING = 1e-13
_COLUMNS = ("average gap", "last gap", "last gap_tau", "KL to equilibrium")


def main(argv: list[str]) -> int:
    """Runs the verb.

    Args:
        argv: the arguments behind `lab`.

    Returns:
        0.

    Raises:
        ConfigError: a setting that cannot work.
        DataError: a game's file cannot be read as a game.
    """
    config = parse_config(argv)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"lab: out: {config.out} cannot be made a folder ({error})") from error
    diagnostics = {game.label: [_diagnose(probs) for probs in game.games_INN] for game in config.games}
    _print_games(config.games, diagnostics)

    width = max(len(repr(method)) for method in config.methods)
    print(
        f"After {config.num_steps} updates: median [lowest, highest] over the games and seeds of an entry. The average "
        "is the uniform mixture\nof all policies so far, the last is the newest; gap is 2 (best reply's win rate - "
        "1/2), gap_tau that of the regularised game, KL in nats."
    )
    runs: list[tuple[Game, TabularMethod, Curves]] = []
    for game in config.games:
        print(f"\n{game.label}\n  {'method':{width}}" + "".join(f"  {column:>23}" for column in _COLUMNS))
        for method in config.methods:
            try:
                curves = measure(method, game, config.num_steps)
            except ConfigError as error:
                raise ConfigError(f"lab: {method!r} on {game.label}: {error}") from error
            runs.append((game, method, curves))
            print(
                f"  {method!r:{width}}" + "".join(f"  {_spread(values):>23}" for values in _final(curves)), flush=True
            )

    settings = {"num_steps": config.num_steps, "seeds": config.seeds, "logit_scale": config.logit_scale}
    results = {"settings": settings, "games": diagnostics, "runs": [_record(*run) for run in runs]}
    write_json_atomic(config.out / "results.json", results)
    figures = draw_gaps(runs, config.out)
    print("\nwrote " + ", ".join(str(path) for path in (config.out / "results.json", *figures)))
    return 0


def _diagnose(probs_NN: Array) -> dict[str, Any]:
    winner = von_neumann_winner(probs_NN)
    return {
        "num_responses": len(probs_NN),
        "von_neumann_winner": winner.policy_N.tolist(),
        "unique": winner.unique,
        "nash_entropy": game_diagnostics.entropy(winner.policy_N),
        "condorcet_winner": game_diagnostics.condorcet_winner(probs_NN),
        "copeland_winners": game_diagnostics.copeland_winners(probs_NN),
        "num_cyclic_triads": game_diagnostics.num_cyclic_triads(probs_NN),
        "curl_share": game_diagnostics.curl_share(probs_NN),
    }


def _print_games(games: list[Game], diagnostics: dict[str, list[dict[str, Any]]]) -> None:
    width = max(len(game.label) for game in games)
    print(
        f"{'game':{width}}  {'games':>5}  {'responses':>9}  {'with a Condorcet winner':>23}  "
        f"{'unique equilibrium':>18}  {'cyclic triads':>13}  {'curl share':>10}"
    )
    for game in games:
        rows = diagnostics[game.label]
        condorcet = sum(row["condorcet_winner"] is not None for row in rows)
        print(
            f"{game.label:{width}}  {len(rows):>5}  {rows[0]['num_responses']:>9}  {condorcet:>23}  "
            f"{sum(row['unique'] for row in rows):>18}  {np.mean([row['num_cyclic_triads'] for row in rows]):>13.1f}  "
            f"{np.mean([row['curl_share'] for row in rows]):>10.3f}"
        )
    print()


def _final(curves: Curves) -> tuple[Array | None, ...]:
    """The columns of the table, [I] each."""
    regularised = curves.last_regularised_gap_QI
    return (
        curves.average_gap_QI[-1],
        curves.last_gap_QI[-1],
        None if regularised is None else regularised[-1],
        curves.kl_QI[-1],
    )


def _spread(values_I: Array | None) -> str:
    known = np.array([]) if values_I is None else values_I[np.isfinite(values_I)]
    if known.size == 0:
        return "-"
    if known.size == 1:
        return _short(known[0])
    return f"{_short(np.median(known))} [{_short(known.min())}, {_short(known.max())}]"


def _short(value: float) -> str:
    if abs(value) < _ROUNDING:
        return "0"
    text = f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.2g}"
    return text.replace("e-0", "e-").replace("e+0", "e")


def _record(game: Game, method: TabularMethod, curves: Curves) -> dict[str, Any]:
    """One run for results.json: every game's final figures, and the curves as median, lowest and highest."""
    final = zip(("average_gap", "last_gap", "last_regularised_gap", "kl"), _final(curves), strict=True)
    curve_names = ("average_gap", "last_gap", "average_regularised_gap", "last_regularised_gap", "kl")
    summaries = {}
    for name in curve_names:
        values_QI = getattr(curves, f"{name}_QI")
        if values_QI is not None:
            known_QI = values_QI[:, np.isfinite(values_QI).all(axis=0)]
            if known_QI.size:
                summaries[name] = {
                    "median": np.median(known_QI, axis=1).tolist(),
                    "lowest": known_QI.min(axis=1).tolist(),
                    "highest": known_QI.max(axis=1).tolist(),
                }
    return {
        "game": game.label,
        "method": repr(method),
        "seed": game.seed_I,
        "final": {
            name: None if values is None else [float(value) if np.isfinite(value) else None for value in values]
            for name, values in final
        },
        "rounds": curves.round_Q,
        "curves": summaries,
    }
