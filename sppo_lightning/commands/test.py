"""`test` without a configuration: the figures of an annotation file, and the lm-eval harness on a policy's folder.

With a configuration `test` is the Trainer's verb, see `commands.alpaca_eval`.

    python -m sppo_lightning test --annotations annotations.json
    python -m sppo_lightning test --lm_eval TASK --policy FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.alpaca_eval import alpaca_eval_win_rate, leaderboard_row
from sppo_lightning.evaluation.length_controlled import LengthControlled, length_controlled_win_rate
from sppo_lightning.io.benchmarks_annotations import (
    GamedAnnotation,
    read_annotations,
    read_gamed_baseline,
    read_instruction_difficulty,
)
from sppo_lightning.io.files import write_json_atomic


def main(argv: list[str]) -> int:
    """Runs the verb without a configuration.

    Args:
        argv: the arguments behind `test`.

    Returns:
        0.

    Raises:
        ConfigError, DataError: a setting or a file that cannot be used.
    """
    parser = _Parser(prog="python -m sppo_lightning test", allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--annotations", help="a judge's annotations.json in AlpacaEval's layout")
    what.add_argument("--lm_eval", nargs="+", metavar="TASK", help="tasks of the lm-eval harness")
    parser.add_argument("--instruction_difficulty", help="the hub's instruction_difficulty.csv")
    parser.add_argument("--gamed_baseline", help="the hub's df_gamed.csv")
    parser.add_argument("--policy", nargs="+", help="with --lm_eval: policies' folders or hub ids, the start first")
    parser.add_argument("--tasks_from", help="with --lm_eval: a folder of task files of your own")
    parser.add_argument("--limit", type=int, help="with --lm_eval: only so many examples of each task")
    parser.add_argument("--output", help="a json file to write the figures to")
    asked = parser.parse_args(argv)
    if asked.annotations:
        score(asked.annotations, read_hub_files(asked.instruction_difficulty, asked.gamed_baseline), asked.output)
        return 0
    from sppo_lightning.commands.harness import run_harness

    if not asked.policy:
        raise ConfigError(
            "test --lm_eval: --policy must name the folder of a policy, such as runs/NAME/exports/round_003"
        )
    run_harness(asked.policy, asked.lm_eval, tasks_from=asked.tasks_from, limit=asked.limit, output=asked.output)
    return 0


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """What AlpacaEval's length-controlled win rate reads from the hub; see `length_controlled_win_rate`."""

    difficulties: Mapping[int, float] | None = None
    gamed: Sequence[GamedAnnotation] = ()


def read_hub_files(instruction_difficulty: str | None, gamed_baseline: str | None) -> HubFiles:
    """Reads those of the two that are there.

    Args:
        instruction_difficulty: instruction_difficulty.csv.
        gamed_baseline: df_gamed.csv, which holds the difficulties, too.

    Raises:
        DataError: a file that is not what it should be.
    """
    difficulties = read_instruction_difficulty(instruction_difficulty) if instruction_difficulty else None
    if not gamed_baseline:
        return HubFiles(difficulties=difficulties)
    gamed, from_gamed = read_gamed_baseline(gamed_baseline)
    return HubFiles(difficulties=difficulties or from_gamed, gamed=gamed)


def score(annotations: str | Path, hub: HubFiles, output: str | Path | None = None) -> dict[str, Any]:
    """Prints what an annotation file says, and writes it if asked.

    Args:
        annotations: AlpacaEval's annotations.json.
        hub: for the length-controlled win rate.
        output: a json file.

    Returns:
        The figures under the leaderboard's names, in per cent; None for what cannot be estimated.

    Raises:
        DataError: a file that is not what it should be.
    """
    judged = read_annotations(annotations)
    raw = alpaca_eval_win_rate(judged.rows)
    controlled = length_controlled_win_rate(judged.rows, hub.difficulties, hub.gamed)
    row = leaderboard_row(raw, controlled)
    print("\n".join(_table(judged.model, judged.baseline, row, controlled)))
    if output:
        names = {"generator": judged.model, "baseline": judged.baseline}
        terms = {"theta": controlled.theta, "phi": controlled.phi, "psi": controlled.psi}
        write_json_atomic(output, names | row | {"glm": terms, "caveat": controlled.caveat}, kind="leaderboard")
        print(f"written to {output}")
    return row


def _table(model: str, baseline: str, row: dict[str, Any], controlled: LengthControlled) -> list[str]:
    lines = [
        f"{model} against {baseline}: {row['n_total']} instructions ({row['n_wins']} won, {row['n_wins_base']} lost, "
        f"{row['n_draws']} tied{_nulls(row['n_nulls'])})",
        f"  {'win rate':24}{_percent(row['win_rate'])}{_error(row['standard_error'])}",
        f"  {'discrete win rate':24}{_percent(row['discrete_win_rate'])}",
        f"  {'length-controlled':24}{_percent(row['length_controlled_winrate'])}{_error(row['lc_standard_error'])}",
    ]
    if controlled.caveat:
        lines.append(f"  The length-controlled win rate was {controlled.caveat}.")
    return lines


def _nulls(count: int) -> str:
    return f"; {count} without a verdict left out" if count else ""


def _percent(value: float | None) -> str:
    if value is None:
        return "not estimable: too few annotations to tell the model's strength from its lengths"
    return f"{value:6.2f} %"


def _error(value: float | None) -> str:
    return "" if value is None else f"  (standard error {value:.2f})"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"test: {message}")
