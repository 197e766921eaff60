"""Training objectives, one file per method. Any of these names may stand in `model.objective`."""

from sppo_lightning.objectives.base import Objective
from sppo_lightning.objectives.dno import DNO
from sppo_lightning.objectives.dpo import DPO
from sppo_lightning.objectives.egpo import EGPO
from sppo_lightning.objectives.gpo import GPO
from sppo_lightning.objectives.grpo import GRPO
from sppo_lightning.objectives.ht_mnpo import HTMNPO
from sppo_lightning.objectives.inpo import INPO
from sppo_lightning.objectives.ipo import IPO
from sppo_lightning.objectives.kto import KTO
from sppo_lightning.objectives.kto_pair import KTOPair
from sppo_lightning.objectives.mpo import MPO
from sppo_lightning.objectives.nash_md import NashMD
from sppo_lightning.objectives.online_ipo import OnlineIPO
from sppo_lightning.objectives.onpo import ONPO
from sppo_lightning.objectives.rloo import RLOO
from sppo_lightning.objectives.simpo import SimPO
from sppo_lightning.objectives.spin import SPIN
from sppo_lightning.objectives.spo import SPO
from sppo_lightning.objectives.sppo import SPPO
from sppo_lightning.objectives.sppo_hard import SPPOHard
from sppo_lightning.objectives.sppo_single import SPPOSingle
from sppo_lightning.objectives.td_mnpo import TDMNPO

__all__ = [
    "DNO",
    "DPO",
    "EGPO",
    "GPO",
    "GRPO",
    "HTMNPO",
    "INPO",
    "IPO",
    "KTO",
    "MPO",
    "ONPO",
    "RLOO",
    "SPIN",
    "SPO",
    "SPPO",
    "TDMNPO",
    "KTOPair",
    "NashMD",
    "Objective",
    "OnlineIPO",
    "SPPOHard",
    "SPPOSingle",
    "SimPO",
]
