"""The judge of a round, as a run's settings have it: kept, paid for, asked about some of the pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io import carriers
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.kept import kept, paying
from sppo_lightning.oracles.round_judge import RoundJudge
from sppo_lightning.selfplay.opponents import PREVIOUS
from sppo_lightning.selfplay.players import RoundSettings
from sppo_lightning.selfplay.quarantine import forget_quarantined, quarantined
from sppo_lightning.selfplay.store import CANDIDATES, RoundFolder
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.types import Candidates, Prompt, SamplingConfig

if TYPE_CHECKING:
    from sppo_lightning.training.data import SelfPlayDataModule


def judge_of_round(
    data: SelfPlayDataModule,
    oracle: PreferenceOracle,
    folder: RoundFolder,
    prompts: Sequence[Prompt],
    settings: RoundSettings,
    round_index: int,
    phase_index: int,
) -> PreferenceOracle:
    """Who judges round t; says first what that can cost.

    Args:
        data: the run's members and settings, attached to a Trainer.
        oracle: who judges this phase.
        folder: the round's, which may hold verdicts already.
        prompts: the round's.
        settings: how the round's data are made.
        round_index: t.
        phase_index: which of the schedule's phases.
    """
    judging, run = data.judging, data.module.run_folder
    own_verdicts = "preferences" not in data.module.schedule.phases[phase_index].shares
    retry = judging.retry_failed and own_verdicts
    is_first = data.trainer.is_global_zero  # type: ignore[union-attr]
    if retry and is_first:
        forget_quarantined(folder, oracle.name)  # the round begins with a barrier
    if own_verdicts and is_first:
        pairs, responses = _questions(data, settings, round_index, len(prompts))
        for line in judging.estimate(
            oracle,
            run.path,
            f"round {round_index}",
            pairs=pairs,
            responses=responses,
        ):  # not by a callback, which a run may not have
            print(f"{line} (judging held-out responses is not in it)" if data.held_out_prompts else line, flush=True)
    earlier = [
        _Responses(run.round(index, phase_index), policy_name(index), data.engine.sampling)
        for index in range(data.first_round, round_index)
    ]
    purpose = f"round_{round_index:03d}" + (f"/phase_{phase_index}" if phase_index else "")
    desk = judging.desk(run.path, purpose, data.progress)
    return RoundJudge(
        kept(oracle, desk).for_round(earlier),
        prompts,
        seed=derive_seed(settings.seed, "pairs", round_index),
        share=judging.pair_share,
        certainty=judging.certainty,
        only_finished=data.truncated != "keep",
        max_quarantined=judging.max_quarantined,
        quarantined=quarantined(folder, oracle.name) if folder.exists and not retry else [],
        desk=desk if list(paying(oracle)) else None,
    )


def _questions(
    data: SelfPlayDataModule, settings: RoundSettings, round_index: int, num_prompts: int
) -> tuple[int, int]:
    """Pairs that a round has to have judged at most, and their responses, with every opponent and further draw."""
    K, J, draws = settings.num_candidates, settings.num_opponent_candidates, data.module.objective.log_z_draws
    opponents = data.opponent.weights(round_index)
    others = sum(name != PREVIOUS for name in opponents)
    share = data.judging.pair_share * num_prompts
    # At each prompt one pair at least with an opponent; see `RoundJudge`.
    pairs = int(share * (K * (K - 1) // 2)) * (PREVIOUS in opponents) + others * max(int(share * K * J), num_prompts)
    if draws:
        pairs += max(int(share * draws * K), num_prompts)
    return pairs, num_prompts * (K + J * others + draws)


class _Responses(Iterable[Candidates]):
    """pi_t's responses in an earlier round, chunk by chunk, read when they are iterated over."""

    def __init__(self, folder: RoundFolder, policy: str, sampling: SamplingConfig) -> None:
        self._folder, self._policy, self._sampling = folder, policy, sampling

    def __iter__(self) -> Iterator[Candidates]:
        prompts, token_ids = carriers.prompts_from(self._folder.read_prompts())
        size = self._folder.settings["chunk_prompts"]
        for index in range(self._folder.settings["num_chunks"]):
            part = slice(index * size, (index + 1) * size)
            table = self._folder.read_chunk(CANDIDATES, index)
            yield carriers.candidates_from(
                table, prompts[part], token_ids[part], policy=self._policy, sampling=self._sampling
            )
