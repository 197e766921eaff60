"""What a policy does, in a row of pictures: before training above, after it below."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sppo_lightning.control.episodes import start_seed
from sppo_lightning.control.task import Task
from sppo_lightning.functional.trajectory_preferences import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRAMES = 8
_CURVES = 6
_LONGEST_S = 120


def film_or_curves(task: Task, episodes: Mapping[str, Trajectory], seed: int) -> Figure:
    """A row of pictures for each episode or, where this machine cannot draw the task, which it says, curves.

    Args:
        task: where they were played.
        episodes: label -> episode.
        seed: what all of them were played with.
    """
    shown = np.linspace(0, task.horizon - 1, _FRAMES).round().astype(int).tolist()
    try:
        strips = {label: _frames(task, each, seed, shown) for label, each in episodes.items()}
    except (subprocess.SubprocessError, OSError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        reason = told[-1] if told else type(error).__name__
        print(f"{task.name} cannot be drawn here ({reason}): curves of its observations instead", file=sys.stderr)
        return _observation_curves(episodes)
    return _filmstrip(strips, shown)


def _frames(task: Task, episode: Trajectory, seed: int, shown: list[int]) -> dict[int, Any]:
    """Step -> picture, up to the end of the episode, drawn by a process of its own."""
    steps = [str(step) for step in shown if step < episode.length]
    with tempfile.TemporaryDirectory() as folder:
        actions, frames = Path(folder) / "actions.npy", Path(folder) / "frames.npz"
        np.save(actions, task.to_task(episode.actions_HA[: episode.length]))
        program = [sys.executable, "-m", "sppo_lightning.control.draw", task.name, str(start_seed(seed))]
        subprocess.run(
            [*program, str(actions), str(frames), *steps],
            check=True,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
        )
        with np.load(frames, allow_pickle=False) as found:
            return {int(step): found[step] for step in found.files}


def _filmstrip(strips: Mapping[str, Mapping[int, Any]], shown: list[int]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 * _FRAMES, 1.7 * len(strips)), layout="constrained")
    grid = np.atleast_2d(figure.subplots(len(strips), _FRAMES))
    for row, (label, frames) in zip(grid, strips.items(), strict=True):
        for place, (axes, step) in enumerate(zip(row, shown, strict=True)):
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if step in frames:
                axes.imshow(frames[step])
                axes.set_title(f"step {step}", fontsize=8)
            else:
                axes.text(0.5, 0.5, "ended", ha="center", va="center", fontsize=8)
            if place == 0:
                axes.set_ylabel(label, fontsize=9)
    return figure


def _observation_curves(episodes: Mapping[str, Trajectory]) -> Figure:
    """The first numbers of what was seen, a row for each episode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.2 * len(episodes)), layout="constrained")
    rows = np.atleast_1d(figure.subplots(len(episodes), 1, sharex=True))
    for axes, (label, episode) in zip(rows, episodes.items(), strict=True):
        seen = episode.observations_HD[: episode.length, :_CURVES]
        for place in range(seen.shape[1]):
            axes.plot(seen[:, place], linewidth=1, label=f"observation {place}")
        axes.set_ylabel(label, fontsize=9)
    rows[-1].set_xlabel("step")
    rows[0].legend(fontsize=7, ncols=_CURVES, loc="upper right")
    return figure
