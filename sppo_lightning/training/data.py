"""The self-play data: Lightning asks for an epoch's loader, and a round that is not on disk yet is played first."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import lightning.pytorch as pl
import torch
from jsonargparse import lazy_instance

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.judging import Judging
from sppo_lightning.selfplay.dataset import GlobalBatch, RoundDataset
from sppo_lightning.selfplay.official import import_round
from sppo_lightning.selfplay.opponents import Opponent, SelfPlay
from sppo_lightning.selfplay.pairing import BestWorst, Pairing
from sppo_lightning.selfplay.players import Truncated
from sppo_lightning.selfplay.reward_model import RewardModel
from sppo_lightning.selfplay.store import MANIFEST
from sppo_lightning.training.compatibility import check_members, check_steps
from sppo_lightning.training.fork import Fork
from sppo_lightning.training.loader import StepLoader
from sppo_lightning.training.offload import TrainingMemory
from sppo_lightning.training.playing import play
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.training.prompt_split import PromptSplit
from sppo_lightning.training.reference import existing_policies
from sppo_lightning.training.schedule import Position
from sppo_lightning.training.world import TrainerWorld
from sppo_lightning.types import Progress, Prompt

if TYPE_CHECKING:
    from sppo_lightning.training.module import PolicyModule


class RunPaused(Exception):  # noqa: N818 - not an error
    """The run stops here on purpose; the same command goes on."""


class SelfPlayDataModule(pl.LightningDataModule):
    """Plays round t with pi_t when training reaches it, and serves it as global steps.

    Args:
        prompts: a .jsonl, .json, .txt, .csv or .parquet file, a folder of them, or a dataset on the hub.
        engine: samples responses.
        opponent_engine: samples the responses of opponents that are not the candidates themselves. Not set: `engine`.
        oracle: judges pairs of responses.
        judging: what is kept of its verdicts, what they may cost, and which pairs are left out.
        opponent: whose responses the candidates are compared with.
        pairing: which responses and pairs are trained on.
        num_rounds: rounds of the run.
        num_candidates: K, responses sampled for each prompt.
        num_opponent_candidates: J, responses sampled from each earlier policy of the opponent. Not set: K.
        epochs_per_round: passes over a round's data.
        global_batch_prompts: prompts in one optimiser step, over all processes (SPPO: 64).
        prompts_per_round: not set: all prompts each round; a number: that many, other ones each round until every
            prompt has had its turn.
        held_out: prompts kept out of training for evaluation. Not set: a tenth, at least 8. 0: none.
        max_prompt_tokens: a longer prompt is an error before anything starts.
        truncated: responses that hit the token limit. "mask": judged, not trained on; "drop": not counted as opponents
            either; "keep": trained on as they are, without a terminator.
        self_comparison: count a response's comparison with itself (1/2) in its win rate, as SPPO's official data do; it
            shrinks the step to (K-1)/K of eta.
        max_pack_tokens: tokens that go through the model at once, each prompt counted once; bounds memory, never
            changes the result.
        chunk_prompts: prompts in one chunk of generating or judging, the most work a kill loses.
        stop_after: "play": stop when a round's data are complete, "round": stop when a round is exported; the same
            command goes on.
        fork_from: `RUN@round_001`: begin at that round of another run and share its generated and judged files.
        export_every: rounds from one export of the policy to the next; the last round is always exported. What is
            measured at a round's end is measured for exported rounds.
        first_round_from: a file, folder or hub dataset under the official column names (`chosen`, `rejected`,
            `chosen_probs`, ... or `responses` and `probability`): the first round trains on its responses and
            preferences instead of generating and judging; later rounds use `prompts`.
        reward_model: is fitted on the oracle's comparisons in every round, and its rewards then decide win rates and
            scores. Not set: the oracle decides.
        seed: decides data order, splits and every sample; the command line sets it from seed_everything.
    """

    def __init__(
        self,
        prompts: str,
        engine: Engine,
        oracle: PreferenceOracle,
        opponent: Opponent = lazy_instance(SelfPlay),  # noqa: B008 - how jsonargparse shows a class as a default
        pairing: Pairing = lazy_instance(BestWorst),  # noqa: B008
        num_rounds: int = 3,
        num_candidates: int = 5,
        num_opponent_candidates: int | None = None,
        epochs_per_round: int = 1,
        global_batch_prompts: int = 64,
        prompts_per_round: int | None = None,
        held_out: int | None = None,
        max_prompt_tokens: int = 1024,
        truncated: Truncated = "mask",
        self_comparison: bool = False,
        max_pack_tokens: int = 8192,
        chunk_prompts: int = 256,
        stop_after: Literal["play", "round"] | None = None,
        fork_from: str | None = None,
        first_round_from: str | None = None,
        opponent_engine: Engine | None = None,
        export_every: int = 1,
        reward_model: RewardModel | None = None,
        judging: Judging = Judging(),  # noqa: B008 - frozen
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = {
            "num_rounds": (num_rounds, 1),
            "num_candidates": (num_candidates, 2),
            "num_opponent_candidates": (num_opponent_candidates, 1),
            "epochs_per_round": (epochs_per_round, 1),
            "global_batch_prompts": (global_batch_prompts, 1),
            "prompts_per_round": (prompts_per_round, 1),
            "held_out": (held_out, 0),
            "export_every": (export_every, 1),
            "max_prompt_tokens": (max_prompt_tokens, 1),
            "max_pack_tokens": (max_pack_tokens, 1),
            "chunk_prompts": (chunk_prompts, 1),
        }
        for name, (value, minimum) in least.items():
            if value is not None and value < minimum:
                raise ConfigError(f"data.{name} must be at least {minimum}, got {value}")
        if fork_from is not None and first_round_from is not None:
            raise ConfigError(
                "data.fork_from and data.first_round_from both say where the first round comes from; give one of them"
            )
        self.prompts_source = prompts
        self.engine, self.opponent_engine = engine, opponent_engine or engine
        self.oracle, self.opponent, self.pairing = oracle, opponent, pairing
        self.reward_model, self.judging = reward_model, judging
        self.num_rounds = num_rounds
        self.num_candidates = num_candidates
        self.num_opponent_candidates = num_opponent_candidates or num_candidates
        self.epochs_per_round = epochs_per_round
        self.global_batch_prompts = global_batch_prompts
        self.prompts_per_round = prompts_per_round
        self.held_out = held_out
        self.max_prompt_tokens = max_prompt_tokens
        self.truncated: Truncated = truncated
        self.self_comparison = self_comparison
        self.max_pack_tokens = max_pack_tokens
        self.chunk_prompts = chunk_prompts
        self.stop_after = stop_after
        self.fork = Fork.parse(fork_from, num_rounds) if fork_from else None
        self.first_round_from = first_round_from
        self.export_every = export_every
        self.seed = seed
        self.progress: Progress = NullProgress()
        self._prompts: PromptSplit | None = None
        self._loaded: tuple[tuple[int, int], RoundDataset] | None = None

    # --- where the run stands ----------------------------------------------------------------------------------------

    @property
    def module(self) -> PolicyModule:
        """The policy module of the run."""
        return self.trainer.lightning_module  # type: ignore[union-attr, return-value]

    @property
    def first_round(self) -> int:
        """The round this run begins with: 0 unless it is a fork."""
        return self.fork.round_index if self.fork else 0

    def position(self, epoch: int) -> Position:
        """The round and the epoch within it of the trainer's `epoch`-th epoch."""
        inner = self.module.schedule.position(epoch, self.epochs_per_round)
        return replace(inner, round=inner.round + self.first_round)

    def exports_after(self, round_index: int) -> bool:
        """Whether the policy after a round is exported."""
        return (round_index + 1) % self.export_every == 0 or round_index + 1 == self.num_rounds

    @property
    def judges(self) -> list[PreferenceOracle]:
        """The oracle of each of a round's phases."""
        return [phase.oracle or self.oracle for phase in self.module.schedule.phases]

    def kept(self, oracle: PreferenceOracle) -> PreferenceOracle:
        """A judge of held-out responses, asked within the budget and about nothing that is known (`data.judging`)."""
        return self.judging.keep(oracle, self.module.run_folder.path, "held-out", self.progress)

    @property
    def prompts(self) -> PromptSplit:
        """The run's prompts, read and split."""
        if self._prompts is None:
            self._prompts = PromptSplit.read(
                self.prompts_source,
                self.module.tokenizer,
                seed=self.seed,
                num_held_out=self.held_out,
                max_prompt_tokens=self.max_prompt_tokens,
            )
        return self._prompts

    @property
    def held_out_prompts(self) -> Sequence[Prompt]:
        """The prompts that are never trained on."""
        return self.prompts.held_out

    @property
    def held_out_token_ids(self) -> list[list[int]]:
        """The held-out prompts as the policy sees them."""
        return self.prompts.tokens(self.held_out_prompts)

    @property
    def most_steps_per_epoch(self) -> int:
        """Global steps of one pass over a round in which no prompt is skipped."""
        return -(-(self.prompts_per_round or len(self.prompts.train)) // self.global_batch_prompts)

    # --- before anything expensive -----------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Reads and checks the prompts, before the model is loaded."""
        check_members(self)
        self.judging.check(self.judges)
        for callback in self.trainer.callbacks:  # type: ignore[union-attr]
            if isinstance(oracle := getattr(callback, "oracle", None), PreferenceOracle):
                self.judging.check_price(oracle)
        for judge in self.judges:
            judge.check_prompts([*self.prompts.train, *self.prompts.held_out])
        run, digest = self.module.run_folder, self.prompts.digest
        if (self.prompts_per_round or 0) > len(self.prompts.train):
            warnings.warn(
                f"data.prompts_per_round: every round uses all {len(self.prompts.train)} training prompts; there are "
                f"fewer than {self.prompts_per_round}",
                stacklevel=2,
            )
        if run.has_begun and run.state.get("prompts_sha256", digest) != digest:
            raise RunFolderError(
                f"data.prompts: {self.prompts_source} does not hold what it held when {run} was started. Restore it, "
                "or start a new run: --trainer.default_root_dir runs/NAME"
            )
        run.update(prompts_sha256=digest)  # before a round's files make the run one that has begun
        if self.fork:
            self.fork.link(run)
            self.fork.check(run, self.held_out_prompts, self.num_candidates)
        first = run.round(self.first_round)
        if self.first_round_from and not first.exists:
            import_round(
                first,
                self.first_round_from,
                tokenizer=self.module.tokenizer,
                max_prompt_tokens=self.max_prompt_tokens,
                held_out={prompt.conversation for prompt in self.held_out_prompts},
                self_comparison=self.self_comparison,
                seed=self.seed,
                chunk_prompts=self.chunk_prompts,
            )
        if first.exists and (self.fork or self.first_round_from):
            check_steps(self, -(-first.read_prompts().num_rows // self.global_batch_prompts))

    def setup(self, stage: str) -> None:
        """Has engines know whose memory they may ask for."""
        for engine in (self.engine, self.opponent_engine):
            engine.lender = TrainingMemory(self.trainer)  # type: ignore[arg-type]

    # --- rounds ------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> StepLoader:
        """The loader of the trainer's current epoch; Lightning asks before every epoch, and once more on a resume."""
        trainer = self.trainer
        assert trainer is not None
        position = self.position(trainer.current_epoch)
        return StepLoader(
            self._data_of(position.round, position.phase),
            epoch=position.epoch,
            global_batch_prompts=self.global_batch_prompts,
            max_pack_tokens=self.max_pack_tokens,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            packed=self.module.layout.packed,
        )

    def transfer_batch_to_device(self, batch: GlobalBatch, device: torch.device, dataloader_idx: int) -> GlobalBatch:
        """Leaves the batch where it is: each pack goes to the device when its turn comes."""
        return batch

    def _data_of(self, index: int, phase: int) -> RoundDataset:
        """What a phase of round `index` trains on: from memory, from disk, or played now."""
        if self._loaded is not None and self._loaded[0] == (index, phase):
            return self._loaded[1]
        folder = self.module.run_folder.round(index, phase)
        world = TrainerWorld(self.trainer)  # type: ignore[arg-type]
        began_at = self._first_step_of(index, phase)
        if not world.broadcast(folder.is_committed):
            if self.module.in_training == (index, phase):
                raise RunFolderError(
                    f"{folder.path / MANIFEST} is missing, but the checkpoint was made while training on this round. "
                    "It cannot be played again: the policy that played it has moved on. Restore the folder from a "
                    f"backup, or delete {self.module.run_folder.last_checkpoint} to train from the first round again"
                )
            play(self, index, phase, began_at)
            if self.stop_after == "play":
                raise RunPaused(f"round {index} is played: {folder}; data.stop_after=play")
        objective = self.module.objective
        dataset = RoundDataset.load(
            folder,
            needs=existing_policies(objective.needs, self.module.schedule, phase, index),
            log_z=objective.log_z,
            log_z_from_draws=objective.log_z_draws > 0,
            mismatched=objective.mismatched,
            seed=self.seed,
        )
        if folder.manifest["global_step"] != began_at:
            raise RunFolderError(
                f"{folder} was played at step {folder.manifest['global_step']}, but this run reaches it at step "
                f"{began_at}: it belongs to another history of this run. Restore the checkpoint that goes with it, or "
                "move the round away if it should be played again"
            )
        if not dataset.groups:
            raise RunFolderError(
                f"{folder} has nothing to train on: every prompt was skipped (responses truncated, too few, or tied); "
                "see round/truncated_share and round/skipped_prompts in its manifest.json. Start a new run "
                "(--trainer.default_root_dir runs/NAME) with a larger data.engine.max_new_tokens, data.truncated keep, "
                "or another oracle"
            )
        self._loaded = (index, phase), dataset
        return dataset

    def _first_step_of(self, index: int, phase: int) -> int:
        """The global step at which a phase of round `index` began or begins."""
        if self.module.in_training == (index, phase):
            return self.module.began_at
        return self.trainer.global_step  # type: ignore[union-attr]
