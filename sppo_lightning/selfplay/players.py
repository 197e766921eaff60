"""How a round is made, and who plays it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sppo_lightning.engines.base import Engine
from sppo_lightning.functional.logps import TokenRows
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.selfplay.opponents import Opponent
from sppo_lightning.selfplay.pairing import Pairing
from sppo_lightning.types import PolicyHandle, Progress, World

Truncated = Literal["keep", "mask", "drop"]


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """How a round's data are made; stored in the round's folder, and a fork keeps what its source round was made with.

    Attributes:
        seed: the run's seed; a response's seed is a function of it, the round, the prompt and the sample.
        num_candidates: K.
        num_opponent_candidates: J, drawn from each earlier policy in the opponent mixture.
        chunk_prompts: prompts in one chunk of work, the most that a kill loses.
        num_chunks: how many chunks the round has.
    """

    seed: int
    num_candidates: int
    num_opponent_candidates: int
    chunk_prompts: int
    num_chunks: int


@dataclass(frozen=True, kw_only=True)
class RoundPlayers:
    """Who plays: the six sockets' members that a round needs, and how it reaches policies and other processes.

    Attributes:
        engine: generates.
        oracle: judges.
        opponent: whose responses the candidates are compared with.
        pairing: which responses are trained on.
        policy: lag -> the policy pi_{t - lag}; lag 0 is pi_t.
        needs: the frozen policies whose log-probabilities the objective reads.
        reference_logps: (name, chunk number -> rows) -> log-probabilities, see `training.reference`.
        truncated: what becomes of responses that hit the token limit: "keep" trains on them, "mask" lets them count as
            opponents but not be trained on, "drop" takes them out of the win rates too.
        self_comparison: count a response's comparison with itself (1/2) in its win rate.
        world: the processes that share the work.
        progress: tells the person who waits.
    """

    engine: Engine
    oracle: PreferenceOracle
    opponent: Opponent
    pairing: Pairing
    policy: Callable[[int], PolicyHandle]
    needs: Sequence[str]
    reference_logps: Callable[[str, TokenRows], Tensor]
    truncated: Truncated
    self_comparison: bool
    world: World
    progress: Progress
