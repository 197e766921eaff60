"""Training objectives, one file per method."""

from sppo_lightning.objectives.base import Objective
from sppo_lightning.objectives.dpo import DPO
from sppo_lightning.objectives.sppo import SPPO

__all__ = ["DPO", "SPPO", "Objective"]
