"""What each round says about the judge, logged."""

from __future__ import annotations

import lightning.pytorch as pl
from sppo_lightning.callbacks.measured import log_measured
from sppo_lightning.callbacks.round_end import RoundEndCallback, self_play_data

from sppo_lightning.selfplay.insight import judge_insight
from sppo_lightning.training.module import PolicyModule


class JudgeInsight(RoundEndCallback):
    """Logs how cyclic and how undecided the judge was on the round's candidates, and whether it pays length.

    Writes `eval/round_003/judge.json`, then logs `round/cyclic_share`, `round/curl_share`, `round/tie_share`,
    `round/winner_tokens`, `round/loser_tokens` and `round/length_correlation` (see `selfplay.insight`). Single verdicts
    are noisy: whether cycles are more than noise is what `python -m sppo_lightning audit` tests.
    """

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        folder, oracle = module.run_folder.round(round_index), self_play_data(trainer).oracle.name
        log_measured(trainer, module, round_index, "judge", lambda: judge_insight(folder, oracle))
