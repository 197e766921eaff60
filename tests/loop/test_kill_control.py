"""SIGKILL to a run on a control task: the same command goes on, to the same bytes."""

from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason='needs the extra: pip install "sppo-lightning[control]"')

from .comparison import differences
from .harness import Run

CONFIG = Path(__file__).parents[2] / "configs" / "control" / "inverted_pendulum_max.yaml"
# The reward with most to remember: a network, its optimiser and all rounds.
SETTINGS = (
    *("--model.reward", "LearnedReward", "--data.num_rounds", "4", "--data.export_every", "2"),
    *("--data.episodes_per_round", "4", "--data.queue_size", "6"),
)
# Each is a little deeper in the run than the one before.
POINTS = [
    "before_rename:round:2",  # round 1 is played, but not on disk
    "after_optimizer_step:2",  # round 2 is on disk and trained on, but there is no checkpoint of that
    "before_rename:evaluation:2",  # round 3 is exported and half measured
    "before_epoch_checkpoint:1",  # and measured, but there is no checkpoint
]


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bytes(launcher, store, tmp_path):
    unbroken, run = (
        Run(launcher, tmp_path / name, *SETTINGS, store=store, config=CONFIG) for name in ("unbroken", "killed")
    )
    attempt = unbroken.fit()
    assert attempt.code == 0, attempt.output[-3000:]
    for point in POINTS:
        attempt = run.fit(crash_at=point)
        assert attempt.was_killed, f"{point} was never passed: {attempt.output[-3000:]}"
    attempt = run.fit()
    assert attempt.code == 0, attempt.output[-3000:]
    assert "goes on" in attempt.output
    assert differences(run, unbroken) == []
