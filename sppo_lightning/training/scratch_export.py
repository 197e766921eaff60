"""The policy in memory on disk, for as long as an engine in another process answers with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sppo_lightning.io.files import TEMPORARY_SUFFIX
from sppo_lightning.training.policy import export_policy
from sppo_lightning.types import World

if TYPE_CHECKING:
    from sppo_lightning.training.data import SelfPlayDataModule


@contextmanager
def policy_on_disk(data: SelfPlayDataModule, world: World) -> Iterator[None]:
    """Exports the policy in memory where an engine needs its folder and the run has none: a half-step's, for example.

    All processes call this; rank 0 writes. What a kill leaves behind is swept at the run's next start.

    Args:
        data: the run's members, attached to a Trainer.
        world: the run's processes.
    """
    module = data.module
    reads = data.engine.reads_folder or data.opponent_engine.reads_folder
    on_disk = module.in_memory[1] == 0 or Path(module.policy_handle.folder).is_dir()
    if not reads or world.broadcast(on_disk):
        yield
        return
    scratch = module.run_folder.path / f".in_memory{TEMPORARY_SUFFIX}"
    if world.rank == 0:
        export_policy(module.policy, module.tokenizer, scratch)
    world.barrier()
    module.scratch_export = scratch
    try:
        yield
    finally:
        module.scratch_export = None
        if world.rank == 0:  # every process has closed its engine, or the run is over
            shutil.rmtree(scratch)
