"""One round of self-play: sample, judge, estimate win rates, freeze log-probabilities, close.

Reads like the algorithm box, and nothing here knows Lightning. Every step writes its result to the round's folder and
skips what is whole there, so the same call finishes a round that a kill interrupted. Steps that work in different
places go on beside each other, chunk by chunk: see `pipeline`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property

import pyarrow as pa
import torch
from torch import Tensor

from sppo_lightning.engines.base import Engine
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io import carriers
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.oracles.round_judge import RoundJudge
from sppo_lightning.selfplay.answers import check_responses, check_verdicts
from sppo_lightning.selfplay.metrics import oracle_metrics, round_metrics
from sppo_lightning.selfplay.mismatched import next_prompts_response
from sppo_lightning.selfplay.opponents import PREVIOUS
from sppo_lightning.selfplay.pipeline import POLICY, Job, overlapping, run_jobs
from sppo_lightning.selfplay.players import RoundPlayers, RoundSettings
from sppo_lightning.selfplay.quarantine import list_quarantined
from sppo_lightning.selfplay.reward_model import REWARD_MODEL, REWARDS, RewardModel, fit_metrics, fit_reward_model
from sppo_lightning.selfplay.selection import choose_targets
from sppo_lightning.selfplay.store import (
    CANDIDATES,
    DRAWS,
    RoundFolder,
    kept_candidates,
    kept_of,
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
    answers = play.sample_all()
    verdicts = play.judge_all(answers)
    if players.reward_model is not None:
        play.run([*answers, *verdicts])
        play.let_reward_model_judge(players.reward_model)
        answers, verdicts = [], play.judge_all([])
    play.run([*answers, *verdicts, *play.freeze_all(answers, verdicts)])
    play.select()
    if players.mismatched:
        play.run(play.freeze_all([], [], mismatched=True))
    if players.world.rank == 0:
        folder.commit(
            round_index=round_index,
            global_step=global_step,
            policy=players.policies.named(PREVIOUS).name,
            metrics=round_metrics(folder, players.oracle.name, players.shared)
            | oracle_metrics(players.oracle)
            | play.measured,
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
        self.weights = players.opponent.weights(round_index)
        self.measured = dict.fromkeys(("time/generate", "time/judge", "time/reference", "time/overlap"), 0.0)
        self._oracle = players.oracle
        self._verdicts = folder.verdicts(players.oracle.name)
        if players.world.rank == 0:
            folder.begin(asdict(settings), carriers.prompts_table(prompts, prompt_token_ids))
        players.world.barrier()

    def run(self, jobs: list[Job]) -> None:
        """Makes what is missing, on all processes."""
        if set(self.weights) != {PREVIOUS} or self.players.log_z_draws:  # policies in turn, loaded one at a time
            for number, job in enumerate(jobs):
                job.after = jobs[:number]
        together = overlapping(jobs, self.players.cpu_at_once)
        if together:
            self.players.progress.say(f"these stages overlap, chunk by chunk: {', '.join(together)}")
        start = time.perf_counter()
        seconds = run_jobs(jobs, self.players.cpu_at_once, lambda stage: crash_point(f"before_stage:{stage}"))
        if together:
            self.measured["time/overlap"] += max(0.0, sum(seconds.values()) - (time.perf_counter() - start))
        for stage, spent_s in seconds.items():
            self.measured[f"time/{stage}"] = self.measured.get(f"time/{stage}", 0.0) + spent_s
        self.players.world.barrier()

    # --- the steps ---------------------------------------------------------------------------------------------------

    def sample_all(self) -> list[Job]:
        """The candidates, the responses of opponents that are not the candidates themselves, and further draws."""
        others = [opponents_stage(name) for name in self.weights if name != PREVIOUS]
        draws = [DRAWS] if self.players.log_z_draws else []
        return [self.sample(stage) for stage in (CANDIDATES, *others, *draws)]

    def sample(self, stage: str) -> Job:
        """y_1..y_K ~ pi_t, or the responses of an opponent, one seed for each response."""
        settings, engine = self.settings, self._engine(stage)
        count = {CANDIDATES: settings.num_candidates, DRAWS: self.players.log_z_draws}.get(
            stage, settings.num_opponent_candidates
        )
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
            check_responses(engine, candidates, prompts, self.prompt_token_ids[chunk], count)
            return carriers.candidates_table(candidates)

        return self._job("generate", stage, engine.works_on, "generating", (count, "responses"), make, engine.close)

    def judge_all(self, answers: Sequence[Job]) -> list[Job]:
        """Everything that was sampled, by whoever is the judge."""
        jobs = [self.judge(name) for name in self.weights]
        if self.players.log_z_draws:
            jobs.append(self.judge_draws())
        for number, job in enumerate(jobs):  # one judge
            job.uses, job.after = answers, jobs[:number]
        return jobs

    def judge(self, name: str) -> Job:
        """P(y_i > y_j) for every pair; against pi_t itself the candidates are their own opponents."""
        if name == PREVIOUS:
            K = self.settings.num_candidates
            return self._judge(f"{self._verdicts}/self", CANDIDATES, None, K * (K - 1) // 2)
        pairs = self.settings.num_candidates * self.settings.num_opponent_candidates
        return self._judge(f"{self._verdicts}/{slug(name)}", CANDIDATES, opponents_stage(name), pairs)

    def judge_draws(self) -> Job:
        """P(draw > y_k) for every draw of pi_t and candidate, SPPO eq. 3.5's B K queries."""
        pairs = self.players.log_z_draws * self.settings.num_candidates
        return self._judge(f"{self._verdicts}/{DRAWS}", DRAWS, CANDIDATES, pairs)

    def _judge(self, stage: str, rows: str, columns: str | None, pairs: int) -> Job:
        oracle = self._oracle
        # Here, because naming a policy may load it, and another thread may be using the one that is loaded.
        row_policy = self._policy(rows).name
        column_policy = "" if columns is None else self._policy(columns).name

        def make(chunk: slice) -> pa.Table:
            candidates = self._candidates(rows, chunk, row_policy)
            opponents = None if columns is None else self._candidates(columns, chunk, column_policy)
            matrix = oracle.compare(candidates, opponents)
            check_verdicts(oracle, matrix, candidates, opponents)
            return carriers.preferences_table(self.prompts[chunk], matrix)

        if oracle is self.players.oracle:
            return self._job("judge", stage, oracle.works_on, "judging", (pairs, "pairs"), make, oracle.close)
        label = "judging by the reward model"
        return self._job(REWARD_MODEL, stage, oracle.works_on, label, (pairs, "pairs"), make, oracle.close)

    def let_reward_model_judge(self, model: RewardModel) -> None:
        """Fits it on the oracle's comparisons; from here on its verdicts count, and the oracle's are only kept."""
        folder, players = self.folder, self.players
        crash_point(f"before_stage:{REWARD_MODEL}")
        start = time.perf_counter()
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
        self.measured |= fit_metrics(folder) | {f"time/{REWARD_MODEL}": time.perf_counter() - start}
        self._oracle, self._verdicts = model.oracle(folder.path / REWARD_MODEL, players.policies), REWARDS

    def freeze_all(self, answers: Sequence[Job], verdicts: Sequence[Job], mismatched: bool = False) -> list[Job]:
        """The log-probabilities of the responses that are trained on, under every frozen policy that is needed."""
        jobs: list[Job] = []
        for name in sorted(self.players.needs, key=lambda name: name != PREVIOUS):
            job = self.freeze(name, mismatched)
            job.uses = verdicts
            # Policies that are not in memory are loaded one at a time, and not beside an engine.
            apart = name == PREVIOUS and self.players.reference_apart
            job.after = [*jobs, *([] if apart else answers)]
            jobs.append(job)
        return jobs

    def freeze(self, name: str, mismatched: bool = False) -> Job:
        """Log pi(y | x) of the kept responses under a frozen policy such as "previous", pi_t.

        Args:
            name: the frozen policy.
            mismatched: of each prompt with the next prompt's first kept response instead; once targets are selected.
        """
        strangers = next_prompts_response(self.folder, kept_candidates(self.folder)) if mismatched else {}
        policy = self._policy(CANDIDATES).name

        def make(chunk: slice) -> pa.Table:
            candidates = self._candidates(CANDIDATES, chunk, policy)
            kept = kept_of(self._imported[0] if self._imported else self._targets(chunk)[0])
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
                        strangers[candidates.prompts[b].prompt_id] if mismatched else candidates.token_ids[b][k]
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
        return self._job("reference", logps_stage(name, mismatched), POLICY, label, (1, "prompts"), make)

    def select(self) -> None:
        """Win rates from all candidates first, then the rows and pairs that are trained on.

        Done again after a kill: it needs no model and no judge, and until the commit nothing proves the tables whole.

        Raises:
            OracleError: more prompts are quarantined than may be, over all processes and stages.
        """
        lost: list[str] = []
        if self.players.world.rank == 0:
            chunks = [self._slice(index) for index in range(self.settings.num_chunks)]
            tables = [self._imported] if self._imported else [self._targets(chunk) for chunk in chunks]
            for name, parts in zip(("targets", "pairs"), zip(*tables, strict=True), strict=True):
                self.folder.write_table(name, pa.concat_tables(parts).combine_chunks())
            if self.players.log_z_draws:
                draws = carriers.preferences_from(
                    self.folder.read_stage(f"{self._verdicts}/{DRAWS}", self.settings.num_chunks), self_play=False
                )
                self.folder.write_table(DRAWS, carriers.draws_table(self.prompts, win_rates(draws)))
            lost = list_quarantined(self.folder, self.players.oracle.name, self.prompts)
        self.players.world.barrier()
        if isinstance(self.players.oracle, RoundJudge) and not self._imported:
            self.players.oracle.check_quarantined(self.players.world.broadcast(lost))

    @cached_property
    def _imported(self) -> tuple[pa.Table, pa.Table] | None:
        """The rows and pairs that came with an imported round."""
        if not self.folder.has_table(f"{self._verdicts}/pairs"):
            return None
        return tuple(self.folder.read_table(f"{self._verdicts}/{name}") for name in ("targets", "pairs"))

    def _targets(self, chunk: slice) -> tuple[pa.Table, pa.Table]:
        """The rows and pairs of a chunk: they depend on nothing outside of it, because a pairing sees one prompt."""
        stages = {name: CANDIDATES if name == PREVIOUS else opponents_stage(name) for name in self.weights}
        targets, scores_BK = choose_targets(
            {name: self._preferences(name, chunk) for name in self.weights},
            self._finished(CANDIDATES, chunk),
            {name: self._finished(stage, chunk) for name, stage in stages.items()},
            self.weights,
            pairing=self.players.pairing,
            truncated=self.players.truncated,
            self_comparison=self.players.self_comparison,
        )
        return carriers.targets_tables(self.prompts[chunk], targets, scores_BK)

    # --- chunks ------------------------------------------------------------------------------------------------------

    def _job(
        self,
        stage: str,
        files: str,
        works_on: str,
        label: str,
        work: tuple[int, str],
        make: Callable[[slice], pa.Table],
        close: Callable[[], None] = lambda: None,
    ) -> Job:
        """This rank's missing chunks.

        Args:
            stage: see `Job`.
            files: where the chunks lie in the round's folder.
            works_on: see `Engine.works_on`.
            label: what the progress bar says.
            work: units of work for each prompt, and what they are called.
            make: the table of a chunk's prompts.
            close: see `Job`.
        """
        units, unit = work
        mine = range(self.players.world.rank, self.settings.num_chunks, self.players.world.size)
        missing = [index for index in mine if not self.folder.has_chunk(files, index)]
        lengths = {index: len(self.prompts[self._slice(index)]) * units for index in missing}
        return Job(
            stage=stage,
            place=self.players.device if works_on == POLICY else works_on,
            units=lengths,
            make=lambda index: self.folder.write_chunk(files, index, make(self._slice(index))),
            close=close,
            open_bar=lambda: self.players.progress(f"round {self.round_index}: {label}", sum(lengths.values()), unit),
        )

    def _slice(self, index: int) -> slice:
        """The prompts of a chunk."""
        size = self.settings.chunk_prompts
        return slice(index * size, (index + 1) * size)

    def _engine(self, stage: str) -> Engine:
        return self.players.engine if stage in (CANDIDATES, DRAWS) else self.players.opponent_engine

    def _policy(self, stage: str) -> PolicyHandle:
        """Who answers in a stage of generation."""
        if stage in (CANDIDATES, DRAWS):
            return self.players.policies.named(PREVIOUS)
        names = {opponents_stage(name): name for name in self.weights}
        return self.players.opponent.policy(names[stage], self.players.policies)

    def _candidates(self, stage: str, chunk: slice, policy: str) -> Candidates:
        return carriers.candidates_from(
            self._read(stage, chunk),
            self.prompts[chunk],
            self.prompt_token_ids[chunk],
            policy=policy,
            sampling=self._engine(stage).sampling,
        )

    def _preferences(self, name: str, chunk: slice) -> PreferenceMatrix:
        stage = f"{self._verdicts}/{'self' if name == PREVIOUS else slug(name)}"
        return carriers.preferences_from(self._read(stage, chunk), self_play=name == PREVIOUS)

    def _finished(self, stage: str, chunk: slice) -> list[Tensor]:
        """[B][K] False where a response was truncated; an imported round may have another K at each prompt."""
        finished: dict[str, list[bool]] = {prompt.prompt_id: [] for prompt in self.prompts[chunk]}
        for row in self._read(stage, chunk).select(["prompt_id", "finish_reason"]).to_pylist():
            finished[row["prompt_id"]].append(row["finish_reason"] == "stop")
        return [torch.tensor(values) for values in finished.values()]

    def _read(self, stage: str, chunk: slice) -> pa.Table:
        return self.folder.read_chunk(stage, chunk.start // self.settings.chunk_prompts)
