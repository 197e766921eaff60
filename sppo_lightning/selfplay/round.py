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

from sppo_lightning.errors import EngineError, OracleError
from sppo_lightning.functional.logps import TokenRows
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io import carriers
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.selfplay.metrics import round_metrics
from sppo_lightning.selfplay.players import RoundPlayers, RoundSettings
from sppo_lightning.selfplay.selection import choose_targets
from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


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
        for lag in sorted({0, *weights}):
            play.sample(lag)
    with play.stage("judge"):
        for lag in weights:
            play.judge(lag)
    play.select(weights)
    with play.stage("reference"):
        for name in players.needs:
            play.freeze(name)
    if players.world.rank == 0:
        folder.commit(
            round_index=round_index,
            global_step=global_step,
            policy=players.policy(0).name,
            metrics=round_metrics(folder, players.oracle.name) | play.seconds,
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
        self.seconds: dict[str, float] = {}
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
        self.seconds[f"time/{name}"] = time.perf_counter() - start

    # --- the steps ---------------------------------------------------------------------------------------------------

    def sample(self, lag: int) -> None:
        """y_1..y_K ~ pi_{t-lag}, one seed for each response."""
        engine, settings = self.players.engine, self.settings
        count = settings.num_candidates if lag == 0 else settings.num_opponent_candidates
        opened = False

        def make(chunk: slice) -> pa.Table:
            nonlocal opened
            if not opened:
                engine.open(self.players.policy(lag))
                opened = True
            prompts = self.prompts[chunk]
            seeds_BK = [
                [
                    derive_seed(settings.seed, "play", self.round_index, lag, prompt.prompt_id, sample)
                    for sample in range(count)
                ]
                for prompt in prompts
            ]
            candidates = engine.generate(prompts, seeds_BK)
            self._check_engine(candidates, chunk, count)
            return carriers.candidates_table(candidates)

        try:
            self._each_chunk(_responses(lag), "generating", count, "responses", make)
        finally:
            if opened:
                engine.close()

    def judge(self, lag: int) -> None:
        """P(y_i > y_j) for every pair; against pi_t itself (lag 0) the matrix is symmetric."""
        K, J = self.settings.num_candidates, self.settings.num_opponent_candidates
        pairs = K * (K - 1) // 2 if lag == 0 else K * J

        def make(chunk: slice) -> pa.Table:
            candidates = self._candidates(0, chunk)
            opponents = None if lag == 0 else self._candidates(lag, chunk)
            matrix = self.players.oracle.compare(candidates, opponents)
            self._check_oracle(matrix, candidates, opponents)
            return carriers.preferences_table(self.prompts[chunk], matrix)

        self._each_chunk(f"{self._verdicts}/{_opponent(lag)}", "judging", pairs, "pairs", make)
        self.players.oracle.close()

    def select(self, weights: Mapping[int, float]) -> None:
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
        self.players.world.barrier()

    def _targets(self, weights: Mapping[int, float]) -> tuple[pa.Table, pa.Table]:
        targets, scores_BK = choose_targets(
            {lag: self._preferences(lag) for lag in weights},
            {lag: self._finished(lag) for lag in weights},
            weights,
            pairing=self.players.pairing,
            truncated=self.players.truncated,
            self_comparison=self.players.self_comparison,
        )
        return carriers.targets_tables(self.prompts, targets, scores_BK)

    def freeze(self, name: str) -> None:
        """Log pi(y | x) of the kept responses under a frozen policy such as "previous", pi_t."""
        kept: dict[str, list[int]] = {prompt.prompt_id: [] for prompt in self.prompts}
        for row in self.folder.read_table("targets").to_pylist():
            if row["trained"]:
                kept[row["prompt_id"]].append(row["candidate"])

        def make(chunk: slice) -> pa.Table:
            candidates = self._candidates(0, chunk)
            keys = [(b, k) for b, prompt in enumerate(candidates.prompts) for k in kept[prompt.prompt_id]]
            logps: list[float] = []
            if keys:  # none where every prompt of the chunk is skipped
                rows = TokenRows(
                    prompt_ids=[candidates.prompt_token_ids[b] for b, _ in keys],
                    response_ids=[candidates.token_ids[b][k] for b, k in keys],
                )
                logps = self.players.reference_logps(name, rows).tolist()
            return pa.Table.from_pylist(
                [
                    {"prompt_id": candidates.prompts[b].prompt_id, "candidate": k, "logp": logp}
                    for (b, k), logp in zip(keys, logps, strict=True)
                ],
                carriers.LOGPS,
            )

        self._each_chunk(f"reference_logps/{name.replace('/', '_')}", f"reference {name}", 1, "prompts", make)

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

    def _candidates(self, lag: int, chunk: slice) -> Candidates:
        index = chunk.start // self.settings.chunk_prompts
        return carriers.candidates_from(
            self.folder.read_chunk(_responses(lag), index),
            self.prompts[chunk],
            self.prompt_token_ids[chunk],
            policy=self.players.policy(lag).name,
            sampling=self.players.engine.sampling,
        )

    def _preferences(self, lag: int) -> PreferenceMatrix:
        stage = f"{self._verdicts}/{_opponent(lag)}"
        table = self.folder.read_stage(stage, self.settings.num_chunks)
        return carriers.preferences_from(table, self_play=lag == 0)

    def _finished(self, lag: int) -> list[Tensor]:
        """[B][K] False where a response was truncated; an imported round may have another K at each prompt."""
        table = self.folder.read_stage(_responses(lag), self.settings.num_chunks)
        finished: dict[str, list[bool]] = {prompt.prompt_id: [] for prompt in self.prompts}
        for row in table.select(["prompt_id", "finish_reason"]).to_pylist():
            finished[row["prompt_id"]].append(row["finish_reason"] == "stop")
        return [torch.tensor(values) for values in finished.values()]

    def _check_oracle(self, matrix: PreferenceMatrix, candidates: Candidates, opponents: Candidates | None) -> None:
        """What an oracle returned is about the responses it was given."""
        columns = opponents or candidates
        expected = (len(candidates), max(candidates.num_candidates), max(columns.num_candidates))
        if tuple(matrix.probs_BKJ.shape) != expected or matrix.self_play != (opponents is None):
            raise OracleError(
                f"{type(self.players.oracle).__name__} returned preferences of shape {tuple(matrix.probs_BKJ.shape)} "
                f"with self_play={matrix.self_play}; for {expected[0]} prompts, {expected[1]} candidates and "
                f"{expected[2]} opponents it must be {expected} with self_play={opponents is None}"
            )

    def _check_engine(self, candidates: Candidates, chunk: slice, count: int) -> None:
        """What an engine returned is what was asked for: these prompts, this many responses, these prompt tokens."""
        for prompt, asked, seen, number in zip(
            self.prompts[chunk],
            self.prompt_token_ids[chunk],
            candidates.prompt_token_ids,
            candidates.num_candidates,
            strict=True,
        ):
            if number != count:
                raise EngineError(
                    f"{type(self.players.engine).__name__} returned {number} responses for prompt {prompt.prompt_id}, "
                    f"{count} were asked for"
                )
            if list(asked) != list(seen):
                raise EngineError(
                    f"{type(self.players.engine).__name__} saw other tokens for prompt {prompt.prompt_id} than the "
                    "policy's chat template gives; it must use the policy's own tokenizer"
                )


def _responses(lag: int) -> str:
    return "candidates" if lag == 0 else f"opponents/lag_{lag}"


def _opponent(lag: int) -> str:
    return "self" if lag == 0 else f"lag_{lag}"
