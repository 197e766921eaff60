"""How a round is made, and who plays it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sppo_lightning.engines.base import Engine
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.selfplay.opponents import Opponent
from sppo_lightning.selfplay.pairing import Pairing
from sppo_lightning.selfplay.reward_model import RewardModel
from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.types import Policies, Progress, World

Truncated = Literal["keep", "mask", "drop"]


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """How a round's data are made; stored in the round's folder, and a fork keeps what its source round was made with.

    Attributes:
        seed: the run's seed; a response's seed is a function of it, the round, the prompt and the sample.
        num_candidates: K.
        num_opponent_candidates: J, drawn from each opponent that is not the candidates themselves.
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
        engine: generates the candidates.
        opponent_engine: generates the responses of opponents that are not the candidates themselves.
        oracle: judges.
        reward_model: is fitted on the oracle's comparisons and then decides in its place; None: the oracle decides.
        earlier_rounds: whose comparisons it is fitted on, too.
        opponent: whose responses the candidates are compared with.
        pairing: which responses are trained on.
        policies: the policies by name; "previous" is pi_t, who samples the candidates.
        needs: the frozen policies whose log-probabilities the objective reads.
        reference_logps: (name, rows) -> log-probabilities, see `training.reference`.
        log_z_draws: further responses of pi_t for each prompt, compared with the candidates, for the objective's
            estimate of the partition function; 0 for none.
        mismatched: freeze the log-probabilities of prompts with other prompts' responses, too (KTO).
        shared: stages that another phase of the round made; they cost nothing again.
        truncated: what becomes of responses that hit the token limit: "keep" trains on them, "mask" lets them count as
            opponents but not be trained on, "drop" takes them out of the win rates too.
        self_comparison: count a response's comparison with itself (1/2) in its win rate.
        world: the processes that share the work.
        progress: tells the person who waits.
        device: where the policy is, such as "cpu" or "cuda:0".
        cpu_at_once: how many stages may work on the CPU at the same time.
        reference_apart: `reference_logps` of pi_t can be called while an engine uses pi_t in this process.
    """

    engine: Engine
    opponent_engine: Engine
    oracle: PreferenceOracle
    opponent: Opponent
    pairing: Pairing
    policies: Policies
    needs: Sequence[str]
    reference_logps: Callable[[str, TokenRows], Tensor]
    log_z_draws: int
    mismatched: bool
    shared: Sequence[str]
    truncated: Truncated
    self_comparison: bool
    world: World
    progress: Progress
    reward_model: RewardModel | None = None
    earlier_rounds: Sequence[RoundFolder] = ()
    device: str = "cpu"
    cpu_at_once: int = 1
    reference_apart: bool = False
