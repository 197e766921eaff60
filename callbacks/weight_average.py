"""The average of a run's weights: one model in place of the mixture, measured beside it."""

from __future__ import annotations

import time

import lightning.pytorch as pl
from sppo_lightning.callbacks.held_out import held_out_bank, members_until
from sppo_lightning.callbacks.measured import log_measured
from sppo_lightning.callbacks.round_end import RoundEndCallback, self_play_data

from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.contestants import Contestant, Member
from sppo_lightning.evaluation.exploitability import replies_against
from sppo_lightning.evaluation.gaps import best_of_n_gap
from sppo_lightning.evaluation.mixture import MIXTURE_FILE, Mixture
from sppo_lightning.evaluation.verdicts import Samples, VerdictBank, win_rates_by_prompt
from sppo_lightning.evaluation.weight_average import average_weights
from sppo_lightning.functional.intervals import Interval, win_rate_interval
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policies import ReachablePolicies


class WeightAverage(RoundEndCallback):
    """Writes `exports/average_003`, the mean of the weights of `exports/mixture.json`, and measures what it is worth.

    Logs `gap/best_of_n_average` and `round/win_rate_average_vs_start`, and writes them with 95 % intervals to
    `eval/round_003/average.json` first. Needs the `Gaps` callback before it in the list, which writes the mixture.

    Args:
        n: replies tried at each prompt, see `Gaps`.
        num_samples: responses that replies are chosen and scored on, see `Gaps`.
        num_prompts: how many of the held-out prompts are used.

    Raises:
        ConfigError: an argument out of its range; no mixture was written.
    """

    def __init__(self, n: int = 32, num_samples: int = 8, num_prompts: int = 64) -> None:
        for name, value in {"n": n, "num_samples": num_samples, "num_prompts": num_prompts}.items():
            if value < 2:
                raise ConfigError(f"WeightAverage: {name} must be at least 2, got {value}")
        self.n, self.num_samples, self.num_prompts = n, num_samples, num_prompts

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        if len(self_play_data(trainer).held_out_prompts) < 2:
            return
        log_measured(trainer, module, round_index, "average", lambda: self._measure(trainer, module, round_index))

    def _measure(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> dict[str, float]:
        began, name, data = time.perf_counter(), f"average_{round_index:03d}", self_play_data(trainer)
        mixture, folder = module.run_folder.path / "exports" / MIXTURE_FILE, module.run_folder.path / "exports" / name
        if not mixture.is_file():
            raise ConfigError("WeightAverage averages exports/mixture.json; put Gaps before it in trainer.callbacks")
        if not folder.is_dir():
            average_weights(Mixture.read(mixture), folder, data.progress)
        policies = ReachablePolicies(module, round_index + 1)
        members = members_until(module, round_index)
        average = Member(name=name, source=str(folder))
        verdicts = VerdictBank(held_out_bank(trainer, module, policies), data.kept(data.oracle), self.num_prompts)
        against = replies_against(Contestant.of(average), [members[0], members[-1]], verdicts, self.n, self.num_samples)
        won = verdicts.compare(
            Samples(member=average, count=self.num_samples), Samples(member=members[0], count=self.num_samples)
        )
        policies.close()
        metrics = {"time/average": time.perf_counter() - began}
        gap = best_of_n_gap(against, f"{members[0].name} and {members[-1].name}").interval
        return (
            metrics
            | _ends("gap/best_of_n_average", gap)
            | _ends("round/win_rate_average_vs_start", win_rate_interval(win_rates_by_prompt(won)))
        )


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
