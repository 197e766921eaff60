"""Exploitability at the end of each round: of the new policy, and of the mixture that the theorem is about."""

from __future__ import annotations

import time
from pathlib import Path

import lightning.pytorch as pl
from sppo_lightning.callbacks.held_out import held_out_bank, members_until
from sppo_lightning.callbacks.measured import log_estimates
from sppo_lightning.callbacks.round_end import RoundEndCallback, self_play_data

from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.exploitability import measure_exploitability
from sppo_lightning.evaluation.mixture import MIXTURE_FILE
from sppo_lightning.evaluation.verdicts import VerdictBank
from sppo_lightning.io.files import read_json, write_json_atomic
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.run_folder import policy_name


class Gaps(RoundEndCallback):
    """Plays all policies so far against each other on held-out prompts, and looks for replies that beat the new one.

    Logs two lower bounds on exploitability for the new policy and, as `..._mixture`, for the mixture of all policies so
    far: `gap/checkpoints` (the best stored policy) and `gap/best_of_n` (at each prompt the best of n responses of the
    start and the new policy). Writes `exports/mixture.json`, `eval/round_003/head_to_head.json` (payoff matrix, Elo,
    equilibrium) and `eval/round_003/gaps.json` (the bounds with 95 % intervals over prompts) first.

    Each round the judge is asked n * num_samples times a prompt for the new policy, about twice as often for the
    mixture, and num_samples^2 times for each earlier policy.

    Args:
        n: replies tried at each prompt, half of them the start policy's, half the new policy's.
        num_samples: responses of each policy that replies are chosen and scored on, and that meet in the matrix.
        num_prompts: how many of the held-out prompts are used.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(self, n: int = 32, num_samples: int = 8, num_prompts: int = 64) -> None:
        for name, value in {"n": n, "num_samples": num_samples, "num_prompts": num_prompts}.items():
            if value < 2:
                raise ConfigError(f"Gaps: {name} must be at least 2, got {value}")
        self.n, self.num_samples, self.num_prompts = n, num_samples, num_prompts

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        if len(self_play_data(trainer).held_out_prompts) < 2:
            return
        folder = module.run_folder.evaluation(policy_name(round_index + 1))
        if trainer.is_global_zero and not (folder / "gaps.json").is_file():
            self._measure(trainer, module, round_index, folder)
        trainer.strategy.barrier()
        log_estimates(trainer, read_json(folder / "gaps.json")["metrics"], step=round_index)

    def _measure(self, trainer: pl.Trainer, module: PolicyModule, round_index: int, folder: Path) -> None:
        began = time.perf_counter()
        policies, data = ReachablePolicies(module, round_index + 1), self_play_data(trainer)
        bank = held_out_bank(trainer, module, policies)
        found = measure_exploitability(
            members_until(module, round_index),
            VerdictBank(bank, data.kept(data.oracle), self.num_prompts),
            self.n,
            self.num_samples,
        )
        policies.close()
        found.mixture.write(module.run_folder.path / "exports" / MIXTURE_FILE)
        write_json_atomic(folder / "head_to_head.json", found.match.as_dict(), kind="head_to_head")
        metrics = found.metrics | {"time/gaps": time.perf_counter() - began}
        # Last of the three: where it is, nothing is measured again.
        write_json_atomic(folder / "gaps.json", found.as_dict() | {"metrics": metrics}, kind="gaps")
