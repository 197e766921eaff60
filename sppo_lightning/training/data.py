"""The self-play data: Lightning asks for an epoch's loader, and a round that is not on disk yet is played first."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

import lightning.pytorch as pl
import torch
from jsonargparse import lazy_instance

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io import carriers
from sppo_lightning.io.chat import check_prompt_lengths
from sppo_lightning.io.prompts import read_prompts
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.selfplay.dataset import RoundDataset
from sppo_lightning.selfplay.opponents import Opponent, SelfPlay
from sppo_lightning.selfplay.pairing import BestWorst, Pairing
from sppo_lightning.selfplay.players import RoundPlayers, RoundSettings, Truncated
from sppo_lightning.selfplay.round import play_round
from sppo_lightning.selfplay.store import MANIFEST
from sppo_lightning.training.fork import Fork
from sppo_lightning.training.loader import StepLoader
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.training.reference import existing_policies, reference_function
from sppo_lightning.training.schedules import Position
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
        oracle: judges pairs of responses.
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
        max_pack_tokens: tokens, padding included, that go through the model at once; bounds memory, never changes the
            result.
        chunk_prompts: prompts in one chunk of generating or judging, the most work a kill loses.
        stop_after: "play": stop when a round's data are complete, "round": stop when a round is exported; the same
            command goes on.
        fork_from: `RUN@round_001`: begin at that round of another run and share its generated and judged files.
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
            "max_prompt_tokens": (max_prompt_tokens, 1),
            "max_pack_tokens": (max_pack_tokens, 1),
            "chunk_prompts": (chunk_prompts, 1),
        }
        for name, (value, minimum) in least.items():
            if value is not None and value < minimum:
                raise ConfigError(f"data.{name} must be at least {minimum}, got {value}")
        self.prompts_source = prompts
        self.engine, self.oracle, self.opponent, self.pairing = engine, oracle, opponent, pairing
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
        self.seed = seed
        self.progress: Progress = NullProgress()
        self.held_out_prompts: list[Prompt] = []
        self._train_prompts: list[Prompt] = []
        self._prompt_token_ids: dict[str, list[int]] = {}
        self._loaded: RoundDataset | None = None

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
        return Position(round=inner.round + self.first_round, epoch=inner.epoch, last_epoch=inner.last_epoch)

    def round_prompts(self, round_index: int) -> list[Prompt]:
        """The prompts of a round: all, or the next `prompts_per_round`, from the beginning again after the last one."""
        size, total = self.prompts_per_round or len(self._train_prompts), len(self._train_prompts)
        return [self._train_prompts[(round_index * size + offset) % total] for offset in range(size)]

    @property
    def held_out_token_ids(self) -> list[list[int]]:
        """The held-out prompts as the policy sees them."""
        return [self._prompt_token_ids[prompt.prompt_id] for prompt in self.held_out_prompts]

    # --- before anything expensive -----------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Reads and checks the prompts, before the model is loaded."""
        existing_policies(self.module.objective.needs, 0)  # refuses an objective that no round can serve
        self._read_prompts()
        run = self.module.run_folder
        content = [[prompt.prompt_id, list(prompt.messages)] for prompt in self._train_prompts + self.held_out_prompts]
        digest = hashlib.sha256(json.dumps(content).encode(errors="surrogatepass")).hexdigest()
        if run.has_begun and run.state.get("prompts_sha256", digest) != digest:
            raise RunFolderError(
                f"data.prompts: {self.prompts_source} does not hold what it held when {run} was started. Restore it, "
                "or start a new run: --trainer.default_root_dir runs/NAME"
            )
        if self.fork:
            self.fork.link(run)
        run.update(prompts_sha256=digest)

    def setup(self, stage: str) -> None:
        """Makes every process know the prompts."""
        if not self._train_prompts:
            self._read_prompts()

    def _read_prompts(self) -> None:
        prompts = read_prompts(self.prompts_source)
        token_ids = check_prompt_lengths(prompts, self.module.tokenizer, self.max_prompt_tokens)
        self._prompt_token_ids = {prompt.prompt_id: ids for prompt, ids in zip(prompts, token_ids, strict=True)}
        # By hash rather than by position: adding a prompt to a file moves no other one in or out of the held-out set.
        prompts.sort(key=lambda prompt: derive_seed(self.seed, "order", prompt.prompt_id))
        num_held_out = max(8, len(prompts) // 10) if self.held_out is None else self.held_out
        if len(prompts) - num_held_out < 1:
            raise ConfigError(
                f"data.prompts: {self.prompts_source} has {len(prompts)} prompts and {num_held_out} of them are held "
                "out for evaluation, which leaves none to train on. Give more prompts, or set data.held_out lower "
                "(0: none)"
            )
        self.held_out_prompts, self._train_prompts = prompts[:num_held_out], prompts[num_held_out:]
        if (self.prompts_per_round or 0) > len(self._train_prompts):
            raise ConfigError(
                f"data.prompts_per_round: {self.prompts_per_round} is more than the {len(self._train_prompts)} prompts "
                f"of {self.prompts_source} beside the {num_held_out} held out. Set it lower, or leave it out for all "
                "prompts each round"
            )

    # --- rounds ------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> StepLoader:
        """The loader of the trainer's current epoch; Lightning asks before every epoch, and once more on a resume."""
        trainer = self.trainer
        assert trainer is not None
        position = self.position(trainer.current_epoch)
        return StepLoader(
            self._round(position.round),
            epoch=position.epoch,
            global_batch_prompts=self.global_batch_prompts,
            max_pack_tokens=self.max_pack_tokens,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def _round(self, index: int) -> RoundDataset:
        """Round `index`: from memory, from disk, or played now."""
        if self._loaded is not None and self._loaded.round_index == index:
            return self._loaded
        folder = self.module.run_folder.round(index)
        world = TrainerWorld(self.trainer)  # type: ignore[arg-type]
        began_at = self._first_step_of(index)
        if not world.broadcast(folder.is_committed):
            if self.module.round_in_training == index:
                raise RunFolderError(
                    f"{folder.path / MANIFEST} is missing, but the checkpoint was made while training on this round. "
                    "It cannot be played again: the policy that played it has moved on. Restore the folder from a "
                    f"backup, or delete {self.module.run_folder.last_checkpoint} to train from the first round again"
                )
            self._play(index, began_at)
            if self.stop_after == "play":
                raise RunPaused(f"round {index} is played: {folder}; data.stop_after=play")
        dataset = RoundDataset.load(
            folder,
            needs=existing_policies(self.module.objective.needs, index),
            log_z=self.module.objective.log_z,
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
                f"{folder} has nothing to train on: every prompt was skipped (responses truncated, too few, or tied). "
                "See round/truncated_share and round/skipped_prompts in its manifest.json; raise "
                "data.engine.max_new_tokens, set data.truncated: keep, or look at the oracle"
            )
        self._loaded = dataset
        return dataset

    def _first_step_of(self, index: int) -> int:
        """The global step at which round `index` began or begins."""
        if self.module.round_in_training == index:
            return self.module.round_first_step
        return self.trainer.global_step  # type: ignore[union-attr]

    def _play(self, index: int, global_step: int) -> None:
        module = self.module
        folder = module.run_folder.round(index)
        if folder.exists:  # begun before a kill, or shared with another run
            prompts, token_ids = carriers.prompts_from(folder.read_prompts())
            settings = RoundSettings(**folder.settings)
        else:
            prompts = self.round_prompts(index)
            token_ids = [self._prompt_token_ids[prompt.prompt_id] for prompt in prompts]
            settings = RoundSettings(
                seed=self.seed,
                num_candidates=self.num_candidates,
                num_opponent_candidates=self.num_opponent_candidates,
                chunk_prompts=self.chunk_prompts,
                num_chunks=-(-len(prompts) // self.chunk_prompts),
            )
        policies = ReachablePolicies(module, index)
        players = RoundPlayers(
            engine=self.engine,
            oracle=self.oracle,
            opponent=self.opponent,
            pairing=self.pairing,
            policy=policies.at_lag,
            needs=existing_policies(module.objective.needs, index),
            reference_logps=reference_function(policies.at_lag, policies.start, self.max_pack_tokens),
            truncated=self.truncated,
            self_comparison=self.self_comparison,
            world=TrainerWorld(self.trainer),  # type: ignore[arg-type]
            progress=self.progress,
        )
        # Lightning asks for loaders in training mode with gradients on.
        module.eval()
        with torch.no_grad():
            play_round(
                folder,
                round_index=index,
                global_step=global_step,
                prompts=prompts,
                prompt_token_ids=token_ids,
                settings=settings,
                players=players,
            )
        policies.close()
        module.train()
