"""What a policy does, in a row of pictures: before training above, after it below."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sppo_lightning.control.policy import ControlPolicy
from sppo_lightning.control.task import Task
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.functional.trajectory_preferences import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRAMES = 8
_CURVES = 6


def filmstrip(task: Task, policies: Mapping[str, ControlPolicy], seed: int) -> Figure:
    """One episode of each policy from the same start state, a row each.

    Args:
        task: where.
        policies: label -> policy.
        seed: of the start state.

    Raises:
        Exception: whatever the simulator raises where it cannot draw; `observation_curves` needs no drawing.
    """
    from matplotlib.figure import Figure

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's, for machines without a screen
    shown = np.linspace(0, task.horizon - 1, _FRAMES).round().astype(int)
    strips = {}
    environment = task.renderer()
    try:
        for label, policy in policies.items():
            strips[label] = _frames(environment, task, policy, seed, set(shown.tolist()))
    finally:
        environment.close()
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


def _frames(environment: Any, task: Task, policy: ControlPolicy, seed: int, shown: set[int]) -> dict[int, Any]:
    """Step -> picture, up to the end of the episode."""
    rng = np.random.default_rng(derive_seed(seed, "film noise"))
    seen, _ = environment.reset(seed=derive_seed(seed, "film") % 2**31)
    frames = {}
    for step in range(task.horizon):
        if step in shown:
            frames[step] = environment.render()
        noise_NA = rng.standard_normal((1, task.action_size))
        action_NA = policy.act(np.asarray(seen, np.float32)[None], np.array([step]), noise_NA)
        seen, _, ended, _, _ = environment.step(task.to_task(action_NA)[0])
        if ended:
            break
    return frames


def observation_curves(episodes: Mapping[str, Sequence[Trajectory]]) -> Figure:
    """The same where nothing can be drawn: the first numbers of what was seen over one episode, a row each.

    Args:
        episodes: label -> episodes, of which the first is shown.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.2 * len(episodes)), layout="constrained")
    rows = np.atleast_1d(figure.subplots(len(episodes), 1, sharex=True))
    for axes, (label, played) in zip(rows, episodes.items(), strict=True):
        seen = played[0].observations_HD[: played[0].length, :_CURVES]
        for place in range(seen.shape[1]):
            axes.plot(seen[:, place], linewidth=1, label=f"observation {place}")
        axes.set_ylabel(label, fontsize=9)
    rows[-1].set_xlabel("step")
    rows[0].legend(fontsize=7, ncols=_CURVES, loc="upper right")
    return figure


def film_or_curves(
    task: Task, policies: Mapping[str, ControlPolicy], episodes: Mapping[str, Sequence[Trajectory]], seed: int
) -> Figure:
    """The filmstrip or, where this machine cannot draw the task, which it says, curves of what was seen."""
    try:
        return filmstrip(task, policies, seed)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        print(f"{task.name} cannot be drawn here ({reason}): curves of its observations instead", file=sys.stderr)
        return observation_curves(episodes)
