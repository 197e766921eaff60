"""Held-out win rates at the end of each round."""

from __future__ import annotations

import time

import lightning.pytorch as pl
import torch
from sppo_lightning.callbacks.held_out import held_out_bank, member_of_round
from sppo_lightning.callbacks.round_end import RoundEndCallback, log_metrics, self_play_data

from sppo_lightning.evaluation.contestants import Contestant
from sppo_lightning.evaluation.verdicts import Samples, VerdictBank, win_rates_by_prompt
from sppo_lightning.functional.intervals import win_rate_interval
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.io.files import read_json, write_json_atomic
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.reference import frozen_logps
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.types import Candidates


class HeldOutEvaluation(RoundEndCallback):
    """Plays the new policy against the start and against the previous round on held-out prompts.

    Writes `eval/round_003/metrics.json`, then logs `round/win_rate_vs_start`, `round/win_rate_vs_previous` with 95 %
    intervals over prompts, and `round/kl_to_start`, a mean over the new policy's own held-out responses
    (only where they are sampled from the policy itself, at temperature 1 without filters: others would bias it).

    Args:
        num_samples: responses for each held-out prompt.
        oracle: another judge than the one trained on; a policy may learn to please that one alone.
    """

    def __init__(self, num_samples: int = 8, oracle: PreferenceOracle | None = None) -> None:
        self.num_samples = num_samples
        self.oracle = oracle

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Samples the start policy while it is in memory, which is before the first step."""
        assert isinstance(pl_module, PolicyModule)
        before_any_training = pl_module.rounds_finished == 0 and trainer.global_step == 0
        if self_play_data(trainer).held_out_prompts and before_any_training:
            bank = held_out_bank(trainer, pl_module, ReachablePolicies(pl_module, 0))
            bank.responses(Contestant.of(member_of_round(pl_module, 0)), self.num_samples)

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        if not self_play_data(trainer).held_out_prompts:
            return
        path = module.run_folder.evaluation(policy_name(round_index + 1)) / "metrics.json"
        if not path.is_file():
            write_json_atomic(path, self._measure(trainer, module, round_index), kind="evaluation")
        log_metrics(trainer, read_json(path), step=round_index)

    def _measure(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> dict[str, float]:
        began = time.perf_counter()
        policies, data = ReachablePolicies(module, round_index + 1), self_play_data(trainer)
        bank = held_out_bank(trainer, module, policies)
        verdicts = VerdictBank(bank, data.kept(self.oracle or data.oracle))
        new, previous, start = (
            Samples(member=member_of_round(module, index), count=self.num_samples)
            for index in (round_index + 1, module.run_folder.last_exported(round_index), 0)
        )
        metrics: dict[str, float] = {}
        for name, opponent in (("start", start), ("previous", previous)):
            interval = win_rate_interval(win_rates_by_prompt(verdicts.compare(new, opponent)))
            metrics[f"round/win_rate_vs_{name}"] = interval.estimate
            metrics[f"round/win_rate_vs_{name}_low"] = interval.low
            metrics[f"round/win_rate_vs_{name}_high"] = interval.high
        sampling = self_play_data(trainer).engine.sampling
        if (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0):
            metrics["round/kl_to_start"] = self._kl(
                trainer, module, bank.responses(Contestant.of(new.member), self.num_samples), policies
            )
        policies.close()
        metrics["time/evaluate"] = time.perf_counter() - began
        return metrics

    def _kl(
        self, trainer: pl.Trainer, module: PolicyModule, responses: Candidates, policies: ReachablePolicies
    ) -> float:
        """Mean of log pi / pi_start over the new policy's responses, in nats.

        Unbiased for KL(pi || pi_start) where the engine samples from pi itself: temperature 1, no filter.
        """
        rows = TokenRows(
            prompt_ids=[
                ids for ids, group in zip(responses.prompt_token_ids, responses.token_ids, strict=True) for _ in group
            ],
            response_ids=[ids for group in responses.token_ids for ids in group],
        )
        budget = self_play_data(trainer).max_pack_tokens
        new = frozen_logps(module.policy_handle, rows, budget)
        return float(torch.mean(new - frozen_logps(policies.start(), rows, budget)))
