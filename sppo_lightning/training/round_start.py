"""The training state at a round's start, kept for a schedule that goes back to it (EGPO's half-step)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.training.checkpoint import AtomicCheckpointIO

if TYPE_CHECKING:
    from sppo_lightning.training.module import PolicyModule


def save_round_start(module: PolicyModule, round_index: int) -> None:
    """Writes weights, optimiser and learning-rate schedule, complete or not at all.

    On disk rather than in memory: a kill between the two steps needs it, and it would be a second training state.
    """
    assert module.policy is not None
    state = {
        "round": round_index,
        "policy": module.policy.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in module.trainer.optimizers],
        "lr_schedulers": [config.scheduler.state_dict() for config in module.trainer.lr_scheduler_configs],
    }
    AtomicCheckpointIO().save_checkpoint(state, _path(module))
    crash_point("after_round_start")


def restore_round_start(module: PolicyModule, round_index: int) -> None:
    """Puts the state back.

    Raises:
        RunFolderError: the file is missing, damaged, or another round's.
    """
    assert module.policy is not None
    path = _path(module)
    state: dict[str, Any] = AtomicCheckpointIO().load_checkpoint(path) if path.is_file() else {"round": None}
    if state["round"] != round_index:
        held = "nothing" if state["round"] is None else f"that of round {state['round']}"
        raise RunFolderError(
            f"{path} should hold the training state at the start of round {round_index}, and holds {held}. "
            f"Restore it from a backup, or delete {module.run_folder.last_checkpoint} to train from the first round "
            "again"
        )
    module.policy.load_state_dict(state["policy"])
    for optimizer, saved in zip(module.trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for config, saved in zip(module.trainer.lr_scheduler_configs, state["lr_schedulers"], strict=True):
        config.scheduler.load_state_dict(saved)


def _path(module: PolicyModule) -> Path:
    return module.run_folder.last_checkpoint.with_name("round_start.ckpt")
