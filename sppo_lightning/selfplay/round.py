"""One round of self-play: sample, judge, estimate win rates, freeze log-probabilities, close.

Reads like the algorithm box, and nothing here knows Lightning. Every step writes its result to the round's folder and
skips what is whole there, so the same call finishes a round that a kill interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import pyarrow as pa
import torch
from torch import Tensor

from sppo_lightning.engines.base import Engine
from sppo_lightning.functional.logps import TokenRows
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io import carriers
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.selfplay.answers import check_responses, check_verdicts
from sppo_lightning.selfplay.metrics import round_metrics
from sppo_lightning.selfplay.mismatched import next_prompts_response
from sppo_lightning.selfplay.opponents import PREVIOUS
from sppo_lightning.selfplay.players import RoundPlayers, RoundSettings
from sppo_lightning.selfplay.reward_model import REWARD_MODEL, REWARDS, RewardModel, fit_metrics, fit_reward_model
from sppo_lightning.selfplay.selection import choose_targets
from sppo_lightning.selfplay.store import (
    CANDIDATES,
    DRAWS,
    RoundFolder,
    kept_candidates,
    logps_stage,
    opponents_stage,
    slug,
)
from sppo_lightning.selfplay.win_rates import win_rates
from sppo_lightning.types import Candidates, PolicyHandle, PreferenceMatrix, Prompt


def play_round(
    folder: RoundFolder,
    *,
    round_index: int,
    global_step: int,
    prompts: Sequence[Prompt],
    prompt_token_ids: Sequence[Sequence[int]],
    settings: RoundSettings,
    players: RoundPlayers,
) -> None:
    """Plays round t, or what is missing of it, and commits it.

    SPPO, arXiv 2405.00675, Algorithm 1, lines 3-5: sample y_1..y_K from pi_t, query P(y_i > y_j), estimate
    P(y_i > pi_t).

    Args:
        folder: where the round goes.
        round_index: t.
        global_step: optimiser steps taken so far.
        prompts: the round's prompts.
        prompt_token_ids: the prompts as the policy sees them.
        settings: how the data are made.
        players: who plays.

    Raises:
        EngineError, OracleError: generation or judging failed; whole chunks are kept.
        RunFolderError: a file of the round is damaged.
    """
    play = _Play(folder, round_index, list(prompts), list(prompt_token_ids), settings, players)
    weights = players.opponent.weights(round_index)
    with play.stage("generate"):
        play.sample(CANDIDATES)
        for name in weights:
            if name != PREVIOUS:
                play.sample(opponents_stage(name))
        if players.log_z_draws:
            play.sample(DRAWS)
    with play.stage("judge"):
        play.judge_all(weights)
    if players.reward_model is not None:
        with play.stage(REWARD_MODEL):
            play.let_reward_model_judge(players.reward_model)
            play.judge_all(weights)
    play.select(weights)
    with play.stage("reference"):
        for name in players.needs:
            play.freeze(name)
            if players.mismatched:
                play.freeze(name, mismatched=True)
    if players.world.rank == 0:
        folder.commit(
            round_index=round_index,
            global_step=global_step,
            policy=players.policies.named(PREVIOUS).name,
            metrics=round_metrics(folder, players.oracle.name, players.shared) | play.measured,
        )
    players.world.barrier()


class _Play:
    """The steps of one `play_round`, each over the chunks that are not on disk yet."""

    def __init__(
        self,
        folder: RoundFolder,
        round_index: int,
        prompts: list[Prompt],
        prompt_token_ids: list[Sequence[int]],
        settings: RoundSettings,
        players: RoundPlayers,
    ) -> None:
        self.folder, self.round_index, self.settings, self.players = folder, round_index, settings, players
        self.prompts, self.prompt_token_ids = prompts, prompt_token_ids
        self.measured: dict[str, float] = {}
        self._oracle = players.oracle
        self._verdicts = folder.verdicts(players.oracle.name)
        if players.world.rank == 0:
            folder.begin(asdict(settings), carriers.prompts_table(prompts, prompt_token_ids))
        players.world.barrier()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        crash_point(f"before_stage:{name}")
        start = time.perf_counter()
        yield
        self.measured[f"time/{name}"] = time.perf_counter() - start

    # --- the steps ---------------------------------------------------------------------------------------------------

    def sample(self, stage: str) -> None:
        """y_1..y_K ~ pi_t, or the responses of an opponent, one seed for each response."""
        settings = self.settings
        count = {CANDIDATES: settings.num_candidates, DRAWS: self.players.log_z_draws}.get(
            stage, settings.num_opponent_candidates
        )
        engine = self._engine(stage)
        opened = False

        def make(chunk: slice) -> pa.Table:
            nonlocal opened
            if not opened:
                engine.open(self._policy(stage))
                opened = True
            prompts = self.prompts[chunk]
            seeds_BK = [
                [
                    derive_seed(settings.seed, "play", self.round_index, stage, prompt.prompt_id, sample)
                    for sample in range(count)
                ]
                for prompt in prompts
            ]
            candidates = engine.generate(prompts, seeds_BK)
            check_responses(self._engine(stage), candidates, prompts, self.prompt_token_ids[chunk], count)
            return carriers.candidates_table(candidates)

        try:
            self._each_chunk(stage, "generating", count, "responses", make)
        finally:
            if opened:
                engine.close()

    def judge_all(self, weights: Mapping[str, float]) -> None:
        """Everything that was sampled, by whoever is the judge."""
        for name in weights:
            self.judge(name)
        if self.players.log_z_draws:
            self.judge_draws()

    def judge(self, name: str) -> None:
        """P(y_i > y_j) for every pair; against pi_t itself the candidates are their own opponents."""
        if name == PREVIOUS:
            K = self.settings.num_candidates
            self._judge(f"{self._verdicts}/self", CANDIDATES, None, K * (K - 1) // 2)
        else:
            pairs = self.settings.num_candidates * self.settings.num_opponent_candidates
            self._judge(f"{self._verdicts}/{slug(name)}", CANDIDATES, opponents_stage(name), pairs)

    def judge_draws(self) -> None:
        """P(draw > y_k) for every draw of pi_t and candidate, SPPO eq. 3.5's B K queries."""
        pairs = self.players.log_z_draws * self.settings.num_candidates
        self._judge(f"{self._verdicts}/{DRAWS}", DRAWS, CANDIDATES, pairs)

    def _judge(self, stage: str, rows: str, columns: str | None, pairs: int) -> None:
        def make(chunk: slice) -> pa.Table:
            candidates = self._candidates(rows, chunk)
            opponents = None if columns is None else self._candidates(columns, chunk)
            matrix = self._oracle.compare(candidates, opponents)
            check_verdicts(self._oracle, matrix, candidates, opponents)
            return carriers.preferences_table(self.prompts[chunk], matrix)

        label = "judging" if self._oracle is self.players.oracle else "judging by the reward model"
        self._each_chunk(stage, label, pairs, "pairs", make)
        self._oracle.close()

    def let_reward_model_judge(self, model: RewardModel) -> None:
        """Fits it on the oracle's comparisons; from here on its verdicts count, and the oracle's are only kept."""
        folder, players = self.folder, self.players
        if players.world.rank == 0:
            fit_reward_model(
                model,
                [*players.earlier_rounds, folder],
                self._oracle.name,
                policies=players.policies,
                seed=derive_seed(self.settings.seed, REWARD_MODEL, self.round_index),
                open_bar=lambda total: players.progress(
                    f"round {self.round_index}: fitting the reward model", total, "prompts"
                ),
            )
        players.world.barrier()
        self.measured |= fit_metrics(folder)
        self._oracle, self._verdicts = model.oracle(folder.path / REWARD_MODEL, players.policies), REWARDS

    def select(self, weights: Mapping[str, float]) -> None:
        """Win rates from all candidates first, then the rows and pairs that are trained on.

        Done again after a kill: it needs no model and no judge, and until the commit nothing proves the tables whole.
        """
        if self.players.world.rank == 0:
            if self.folder.has_table(f"{self._verdicts}/pairs"):  # they came with an imported round
                rows, pairs = (self.folder.read_table(f"{self._verdicts}/{name}") for name in ("targets", "pairs"))
            else:
                rows, pairs = self._targets(weights)
            self.folder.write_table("targets", rows)
            self.folder.write_table("pairs", pairs)
            if self.players.log_z_draws:
                draws = carriers.preferences_from(
                    self.folder.read_stage(f"{self._verdicts}/{DRAWS}", self.settings.num_chunks), self_play=False
                )
                self.folder.write_table(DRAWS, carriers.draws_table(self.prompts, win_rates(draws)))
        self.players.world.barrier()

    def _targets(self, weights: Mapping[str, float]) -> tuple[pa.Table, pa.Table]:
        stages = {name: CANDIDATES if name == PREVIOUS else opponents_stage(name) for name in weights}
        targets, scores_BK = choose_targets(
            {name: self._preferences(name) for name in weights},
            self._finished(CANDIDATES),
            {name: self._finished(stage) for name, stage in stages.items()},
            weights,
            pairing=self.players.pairing,
            truncated=self.players.truncated,
            self_comparison=self.players.self_comparison,
        )
        return carriers.targets_tables(self.prompts, targets, scores_BK)

    def freeze(self, name: str, mismatched: bool = False) -> None:
        """Log pi(y | x) of the kept responses under a frozen policy such as "previous", pi_t.

        Args:
            name: the frozen policy.
            mismatched: of each prompt with the next prompt's first kept response instead.
        """
        kept = kept_candidates(self.folder)
        responses = next_prompts_response(self.folder, kept) if mismatched else {}

        def make(chunk: slice) -> pa.Table:
            candidates = self._candidates(CANDIDATES, chunk)
            keys = [  # none where every prompt of the chunk is skipped
                (b, k)
                for b, prompt in enumerate(candidates.prompts)
                for k in kept.get(prompt.prompt_id, [])[: 1 if mismatched else None]
            ]
            logps: list[float] = []
            if keys:
                rows = TokenRows(
                    prompt_ids=[candidates.prompt_token_ids[b] for b, _ in keys],
                    response_ids=[
                        responses[candidates.prompts[b].prompt_id] if mismatched else candidates.token_ids[b][k]
                        for b, k in keys
                    ],
                )
                logps = self.players.reference_logps(name, rows).tolist()
            return pa.Table.from_pylist(
                [
                    {"prompt_id": candidates.prompts[b].prompt_id, "candidate": k, "logp": logp}
                    for (b, k), logp in zip(keys, logps, strict=True)
                ],
                carriers.LOGPS,
            )

        label = f"reference {name}" + (" mismatched" if mismatched else "")
        self._each_chunk(logps_stage(name, mismatched), label, 1, "prompts", make)

    # --- chunks ------------------------------------------------------------------------------------------------------

    def _each_chunk(self, stage: str, label: str, units: int, unit: str, make: Callable[[slice], pa.Table]) -> None:
        """Makes this rank's missing chunks of a stage; `units` of work for each prompt."""
        world, size = self.players.world, self.settings.chunk_prompts
        mine = range(world.rank, self.settings.num_chunks, world.size)
        missing = [index for index in mine if not self.folder.has_chunk(stage, index)]
        if missing:
            lengths = {index: len(self.prompts[index * size : (index + 1) * size]) * units for index in missing}
            bar = self.players.progress(f"round {self.round_index}: {label}", sum(lengths.values()), unit)
            try:
                for index in missing:
                    table = make(slice(index * size, (index + 1) * size))
                    self.folder.write_chunk(stage, index, table)
                    bar.update(lengths[index])
            finally:
                bar.close()
        world.barrier()

    def _engine(self, stage: str) -> Engine:
        return self.players.engine if stage in (CANDIDATES, DRAWS) else self.players.opponent_engine

    def _policy(self, stage: str) -> PolicyHandle:
        """Who answers in a stage of generation."""
        if stage in (CANDIDATES, DRAWS):
            return self.players.policies.named(PREVIOUS)
        names = {opponents_stage(name): name for name in self.players.opponent.weights(self.round_index)}
        return self.players.opponent.policy(names[stage], self.players.policies)

    def _candidates(self, stage: str, chunk: slice) -> Candidates:
        index = chunk.start // self.settings.chunk_prompts
        return carriers.candidates_from(
            self.folder.read_chunk(stage, index),
            self.prompts[chunk],
            self.prompt_token_ids[chunk],
            policy=self._policy(stage).name,
            sampling=self._engine(stage).sampling,
        )

    def _preferences(self, name: str) -> PreferenceMatrix:
        stage = f"{self._verdicts}/{'self' if name == PREVIOUS else slug(name)}"
        table = self.folder.read_stage(stage, self.settings.num_chunks)
        return carriers.preferences_from(table, self_play=name == PREVIOUS)

    def _finished(self, stage: str) -> list[Tensor]:
        """[B][K] False where a response was truncated; an imported round may have another K at each prompt."""
        table = self.folder.read_stage(stage, self.settings.num_chunks)
        finished: dict[str, list[bool]] = {prompt.prompt_id: [] for prompt in self.prompts}
        for row in table.select(["prompt_id", "finish_reason"]).to_pylist():
            finished[row["prompt_id"]].append(row["finish_reason"] == "stop")
        return [torch.tensor(values) for values in finished.values()]
