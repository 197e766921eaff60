"""What is measured of a run on a control task: curves, checkpoint against checkpoint, a film, the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
from sppo_lightning.callbacks.measured import log_estimates
from sppo_lightning.callbacks.report import REPORT_FILE, write_report
from sppo_lightning.callbacks.round_end import run_loggers

from sppo_lightning.control.data import TrajectoryDataModule
from sppo_lightning.control.filmstrip import film_or_curves
from sppo_lightning.control.module import START, ControlModule
from sppo_lightning.control.payoff import evaluation_episodes, evaluation_seed, judge_policies, standing
from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.intervals import mean_interval
from sppo_lightning.functional.trajectory_preferences import Trajectory
from sppo_lightning.io.files import atomic_write, read_json, write_json_atomic
from sppo_lightning.training.progress import StageProgress
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.training.tracking_uri import run_page
from sppo_lightning.types import ProgressBar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = {"eval/true_return": "true return", "round/win_rate_vs_start": "win rate against the start policy"}
COSTS = {"cost/comparisons": "comparisons", "cost/env_steps": "steps of the task"}


class ControlProgress(pl.Callback):
    """A bar over the run's rounds."""

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar for the rounds that are left."""
        left = control_data(trainer).num_rounds - trainer.current_epoch
        self._bar = StageProgress(rank=trainer.global_rank)("training", left, "rounds")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One round further."""
        if self._bar is not None:
            self._bar.update(1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the error stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class ControlEvaluation(pl.Callback):
    """Measures every exported policy: true return, win rates, gap; at the end draws curves and a film.

    Everything is written to `eval/` first, so that what a kill has logged again is the same.

    Args:
        num_episodes: start states that every policy plays from, at least 4.
    """

    def __init__(self, num_episodes: int = 32) -> None:
        if num_episodes < 4:
            raise ConfigError(f"ControlEvaluation.num_episodes must be at least 4, got {num_episodes}")
        self.num_episodes = num_episodes
        self._episodes: dict[str, list[Trajectory]] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps what was measured of the round, and measures its policy if it was exported."""
        assert isinstance(pl_module, ControlModule)
        data, index = control_data(trainer), pl_module.rounds_finished - 1
        folder = pl_module.run_folder.evaluation(policy_name(index + 1))
        if not folder.joinpath("round.json").is_file():
            write_json_atomic(folder / "round.json", pl_module.round_metrics, kind="round_metrics")
        if not data.exports_after(index):
            return
        file = folder / "head_to_head.json"
        if not file.is_file():
            write_json_atomic(file, self._measure(data, pl_module, index), kind="evaluation")
        metrics: dict[str, float] = read_json(file)["metrics"]
        log_estimates(trainer, metrics, step=index)
        # The same curves over what they cost, which MLflow can only draw if it is the step.
        for cost, label in COSTS.items():
            at = int(pl_module.cost[cost])
            over = {f"{name}_over_{label.replace(' ', '_')}": metrics[name] for name in CURVES}
            for logger in trainer.loggers:
                logger.log_metrics(over, step=at)
        print(
            f"round {index}: true return {metrics['eval/true_return']:.1f}, wins "
            f"{metrics['round/win_rate_vs_start']:.2f} against the start policy",
            flush=True,
        )
        write_report(trainer, pl_module.run_folder.path)

    def _measure(self, data: TrajectoryDataModule, module: ControlModule, index: int) -> dict[str, Any]:
        exported = [policy_name(round_index + 1) for round_index in range(index + 1) if data.exports_after(round_index)]
        names = [START, *exported]
        rates_BMM = judge_policies({name: self._episodes_of(data, module, name) for name in names}, data.preference)
        found = standing(names, rates_BMM)
        match, newest = found.match, len(names) - 1
        metrics: dict[str, float] = {"eval/cyclic_share": match.cyclic_share}
        true_return = mean_interval([each.true_return for each in self._episodes_of(data, module, names[-1])])
        intervals = {
            "eval/true_return": (true_return.estimate, true_return.low, true_return.high),
            "round/win_rate_vs_start": (match.win_rates_NN[newest, 0], *match.intervals_NN2[newest, 0]),
            "round/win_rate_vs_previous": (
                match.win_rates_NN[newest, newest - 1],
                *match.intervals_NN2[newest, newest - 1],
            ),
        }
        for name, gap in (("gap/checkpoints", found.gap), ("gap/checkpoints_mixture", found.mixture_gap)):
            intervals[name] = (gap.interval.estimate, gap.interval.low, gap.interval.high)
        for name, (estimate, low, high) in intervals.items():
            metrics |= {name: float(estimate), f"{name}_low": float(low), f"{name}_high": float(high)}
        metrics |= {f"round/{name.removeprefix('cost/')}_so_far": module.cost[name] for name in COSTS}
        return {**match.as_dict(), "gap": found.gap.as_dict(), "metrics": metrics}

    def _episodes_of(self, data: TrajectoryDataModule, module: ControlModule, name: str) -> list[Trajectory]:
        if name not in self._episodes:
            run = module.run_folder
            self._episodes[name] = evaluation_episodes(
                run.evaluation(name) / "episodes.safetensors",
                data.task,
                ControlPolicy.load(run.path / "exports" / name, data.task),
                name,
                self.num_episodes,
                data.seed,
            )
        return self._episodes[name]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the curves and the film, and prints where everything lies."""
        assert isinstance(pl_module, ControlModule)
        data, run = control_data(trainer), pl_module.run_folder
        last = policy_name(pl_module.rounds_finished)
        if not (run.path / "exports" / last).is_dir():
            return
        names = {"before": START, "after": last}
        film = film_or_curves(
            data.task,
            {label: self._episodes_of(data, pl_module, name)[0] for label, name in names.items()},
            evaluation_seed(data.seed, 0),
        )
        curves = _curves(run.path)
        for figure, name in ((film, "filmstrip"), (curves, "learning_curves")):
            with atomic_write(run.path / f"{name}.png", kind="figure") as temporary:
                figure.savefig(temporary, format="png", dpi=120)
            for logger in run_loggers(trainer):
                logger.log_figure(figure, f"figures/{name}.png")
        newest = read_json(run.evaluation(last) / "head_to_head.json")
        print(f"\n{pl_module.rounds_finished} rounds, {pl_module.cost['cost/env_steps']:.0f} steps, "
              f"{pl_module.cost['cost/comparisons']:.0f} comparisons")  # fmt: skip
        for policy, weight in zip(newest["names"], newest["equilibrium"], strict=True):
            if weight > 0.005:
                print(f"  {weight:5.0%} {policy} in the equilibrium of the stored policies")
        print(f"pictures: {run.path / 'filmstrip.png'}, {run.path / 'learning_curves.png'}")
        print(f"report: {run.path / REPORT_FILE}")
        for logger in run_loggers(trainer):
            page = run_page(logger.tracking_uri, logger.experiment_id, logger.run_id)
            print(
                f"To browse the run, start\n  {page.command}\nand open\n  {page.url}"
                if page.command
                else f"  {page.url}"
            )


def _curves(run: Any) -> Figure:
    """Return and win rate of every measured policy, against comparisons and against steps."""
    from matplotlib.figure import Figure

    found = [read_json(file)["metrics"] for file in sorted(run.glob("eval/round_*/head_to_head.json"))]
    figure = Figure(figsize=(8, 5), layout="constrained")
    for row, (name, label) in zip(figure.subplots(len(CURVES), len(COSTS), sharey="row"), CURVES.items(), strict=True):
        for axes, (cost, unit) in zip(row, COSTS.items(), strict=True):
            places = [metrics[f"round/{cost.removeprefix('cost/')}_so_far"] for metrics in found]
            values, low, high = (
                np.array([metrics[key] for metrics in found]) for key in (name, f"{name}_low", f"{name}_high")
            )
            bars = np.maximum([values - low, high - values], 0)  # but for rounding an estimate lies in its interval
            axes.errorbar(places, values, yerr=bars, marker="o", markersize=4, capsize=2)
            axes.set_xlabel(unit)
        row[0].set_ylabel(label)
    return figure


def control_data(trainer: pl.Trainer) -> TrajectoryDataModule:
    """The run's data module."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, TrajectoryDataModule)
    return data
