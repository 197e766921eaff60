"""What a judge that was not trained on thinks of the same answers."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from sppo_lightning.callbacks.held_out import held_out_bank, member_of_round
from sppo_lightning.callbacks.measured import log_measured
from sppo_lightning.callbacks.round_end import RoundEndCallback, self_play_data

from sppo_lightning.evaluation.verdicts import Samples, VerdictBank
from sppo_lightning.functional.intervals import mean_interval, win_rate_interval
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.types import PreferenceMatrix


class SecondJudge(RoundEndCallback):
    """Has another judge compare the new policy's held-out answers with the start's, beside the one trained on.

    Writes `eval/round_003/second_judge.json`, then logs `round/second_win_rate_vs_start`, and `round/judge_gap`: how
    much higher the judge that was trained on rates the same answers, with 95 % intervals over prompts. A gap that grows
    says that the policy learned to please one judge (overoptimisation, Gao et al., arXiv 2210.10760).

    Args:
        oracle: the second judge; not set: nothing is measured.
        num_samples: responses for each held-out prompt; those of `HeldOutEvaluation`, and the first judge's verdicts on
            them, are used again.
    """

    def __init__(self, oracle: PreferenceOracle | None = None, num_samples: int = 8) -> None:
        self.oracle = oracle
        self.num_samples = num_samples

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        oracle = self.oracle
        if oracle is not None and self_play_data(trainer).held_out_prompts:
            log_measured(
                trainer,
                module,
                round_index,
                "second_judge",
                lambda: self._measure(trainer, module, round_index, oracle),
            )

    def _measure(
        self, trainer: pl.Trainer, module: PolicyModule, round_index: int, oracle: PreferenceOracle
    ) -> dict[str, float]:
        policies, data = ReachablePolicies(module, round_index + 1), self_play_data(trainer)
        bank = held_out_bank(trainer, module, policies)
        new, start = (
            Samples(member=member_of_round(module, index), count=self.num_samples) for index in (round_index + 1, 0)
        )
        first_B, second_B = (
            _win_rates(VerdictBank(bank, data.kept(judge)).compare(new, start)) for judge in (data.oracle, oracle)
        )
        policies.close()
        both = ~(first_B.isnan() | second_B.isnan())
        if not bool(both.any()):
            return {}
        rate = win_rate_interval(second_B[both][:, None].numpy())
        # The same answers before both judges: differences prompt by prompt.
        gap = mean_interval((first_B - second_B)[both].numpy())
        return {
            "round/second_win_rate_vs_start": rate.estimate,
            "round/second_win_rate_vs_start_low": rate.low,
            "round/second_win_rate_vs_start_high": rate.high,
            "round/judge_gap": gap.estimate,
            "round/judge_gap_low": gap.low,
            "round/judge_gap_high": gap.high,
        }


def _win_rates(matrix: PreferenceMatrix) -> torch.Tensor:
    """[B] float64 mean over the judged comparisons of each prompt; NaN where there is none."""
    assert matrix.judged_BKJ is not None
    total_B = torch.where(matrix.judged_BKJ, matrix.probs_BKJ.double(), 0.0).sum((1, 2))
    return total_B / matrix.judged_BKJ.sum((1, 2))
