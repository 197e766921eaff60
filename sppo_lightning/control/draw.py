"""Draws one episode again from its actions; a program of its own, for a simulator that cannot draw may abort.

    python -m sppo_lightning.control.draw TASK SEED ACTIONS.npy FRAMES.npz STEP STEP ...

MuJoCo without OpenGL ends its process at the second attempt instead of raising an error.
"""

from __future__ import annotations

import os
import sys

import numpy as np


def main(argv: list[str]) -> None:
    """Writes the pictures of the asked steps, those before the episode's end, as arrays named by their step."""
    name, seed, actions_file, frames_file, *steps = argv
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's, for machines without a screen
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    import gymnasium

    environment = gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, render_mode="rgb_array")
    environment.reset(seed=int(seed))
    wanted, frames = {int(step) for step in steps}, {}
    for step, action in enumerate(np.load(actions_file, allow_pickle=False)):
        if step in wanted:
            frames[str(step)] = np.asarray(environment.render())
        environment.step(action)
    np.savez(frames_file, allow_pickle=False, **frames)


if __name__ == "__main__":
    main(sys.argv[1:])
