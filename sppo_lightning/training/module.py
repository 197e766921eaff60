"""The policy in training: pi_{t+1}, beside the frozen log-probabilities of pi_t that travel in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse import lazy_instance
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import get_scheduler

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.forward import Layout
from sppo_lightning.functional.layout import layout_of
from sppo_lightning.functional.logps import response_loss
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.io.crash_points import crash_point
from sppo_lightning.objectives import SPPO
from sppo_lightning.objectives.base import Objective
from sppo_lightning.selfplay.dataset import GlobalBatch, Pack
from sppo_lightning.training.checkpoint import RoundCheckpoint
from sppo_lightning.training.policy import MIXED, LivePolicy, export_policy, load_policy, load_tokenizer
from sppo_lightning.training.reference import frozen_logps
from sppo_lightning.training.round_start import restore_round_start, save_round_start
from sppo_lightning.training.run_folder import RunFolder, policy_name
from sppo_lightning.training.schedule import MAIN, Position, Schedule
from sppo_lightning.training.schedules import PlayThenTrain
from sppo_lightning.training.step_metrics import StepMetrics
from sppo_lightning.types import ObjectiveInputs, ObjectiveOutputs

if TYPE_CHECKING:
    from sppo_lightning.training.data import SelfPlayDataModule

OptimizerFactory = Callable[[Iterable], Optimizer]


class PolicyModule(pl.LightningModule):
    """Trains a causal language model on self-play rounds. One Lightning batch is one optimiser step.

    Args:
        policy: the start policy: a Hugging Face folder, a hub id, or `package:` for one shipped with this package.
        objective: the loss. SPPO, arXiv 2405.00675, with the paper's eta.
        schedule: what a round consists of.
        optimizer: class and arguments; SPPO's runs used RMSprop at 5e-7 (uclaml/SPPO scripts/pipeline.sh).
        lr_schedule: shape of the learning rate over a round: linear, cosine, constant, constant_with_warmup.
        warmup_ratio: share of the schedule's steps over which the rate rises from 0.
        lr_schedule_epochs: horizon of the schedule in epochs, apart from where training stops (SPPO's paper stops an
            18-epoch schedule after 1). Not set: the epochs of the round, or of the run with reset_optimizer never.
        reset_optimizer: "round": a fresh optimiser and learning-rate schedule for each fit; "never": they go on.
        max_grad_norm: gradients are clipped to this 2-norm; not set: no clipping.
        dtype: of the weights in training and in exports; "bfloat16-mixed": float32 weights, products in bfloat16.
        gradient_checkpointing: compute activations twice instead of keeping them: a third more work, less memory.
        checkpoint_every_n_steps: distance of checkpoints within an epoch; there is always one at an epoch's end.
        trust_remote_code: run Python code that comes with the policy's files.
        chat_template_arguments: what the chat template is told besides the turns, such as Qwen3's
            `{enable_thinking: false}`; it is written into the exports' templates.
    """

    def __init__(
        self,
        policy: str,
        objective: Objective = lazy_instance(SPPO),  # noqa: B008 - how jsonargparse shows a class as a default
        schedule: Schedule = lazy_instance(PlayThenTrain),  # noqa: B008
        optimizer: OptimizerFactory = lambda parameters: torch.optim.RMSprop(parameters, lr=5e-7),
        lr_schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
        warmup_ratio: float = 0.1,
        lr_schedule_epochs: int | None = None,
        reset_optimizer: Literal["round", "never"] = "round",
        max_grad_norm: float | None = 1.0,
        dtype: Literal["float32", "bfloat16", "bfloat16-mixed"] = "float32",
        gradient_checkpointing: bool = False,
        checkpoint_every_n_steps: int = 100,
        trust_remote_code: bool = False,
        chat_template_arguments: dict[str, bool | int | str] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warmup_ratio < 1:
            raise ConfigError(f"model.warmup_ratio must lie in [0, 1), got {warmup_ratio}")
        if lr_schedule_epochs is not None and lr_schedule_epochs < 1:
            raise ConfigError(f"model.lr_schedule_epochs must be at least 1, got {lr_schedule_epochs}")
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ConfigError(f"model.max_grad_norm must be positive, or null for no clipping, got {max_grad_norm}")
        if checkpoint_every_n_steps < 1:
            raise ConfigError(f"model.checkpoint_every_n_steps must be at least 1, got {checkpoint_every_n_steps}")
        self.automatic_optimization = False
        self.policy_source = policy
        self.objective = objective
        self.schedule = schedule
        self._make_optimizer = optimizer
        self._lr_schedule = lr_schedule
        self._warmup_ratio = warmup_ratio
        self._lr_schedule_epochs = lr_schedule_epochs
        self.reset_optimizer = reset_optimizer
        self._max_grad_norm = max_grad_norm
        self.policy_dtype = dtype if dtype == MIXED else getattr(torch, dtype)
        self._gradient_checkpointing = gradient_checkpointing
        self._checkpoint_every_n_steps = checkpoint_every_n_steps
        self.trust_remote_code = trust_remote_code
        self._chat_template_arguments = chat_template_arguments

        self.policy: nn.Module | None = None
        self._tokenizer: Any = None
        self.scratch_export: Path | None = None  # where the weights in memory lie for other processes, if they do
        # Saved with the weights: whose they are, the fit they are in the middle of, and its learning-rate schedule.
        self.in_memory = (MAIN, 0)
        self.in_training: tuple[int, int] | None = None  # round and phase
        self.began_at = 0  # the global step at which that phase began
        self.rounds_finished = 0
        self._steps_per_epoch = 1
        self._layout: Layout | None = None

    # --- the policy --------------------------------------------------------------------------------------------------

    @property
    def run_folder(self) -> RunFolder:
        """Where this run lives."""
        return RunFolder(self.trainer.default_root_dir)

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer; read without the model."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.policy_source, self.trust_remote_code, self._chat_template_arguments)
        return self._tokenizer

    @property
    def policy_handle(self) -> LivePolicy:
        """The policy in memory: pi_t while round t is played, pi_{t+1} once it is trained."""
        assert self.policy is not None
        policy, round_index = self.in_memory
        return LivePolicy(
            name=policy_name(round_index, policy),
            folder=str(self.scratch_export or self.run_folder.policy_source(round_index, self.policy_source, policy)),
            model=self.policy,
            tokenizer=self.tokenizer,
        )

    def value_of(self, policy: str, round_index: int) -> str:
        """The policy whose weights are those of `policy` at t: all begin as the main one, also where a fork begins."""
        exists = self.run_folder.export(round_index - 1).joinpath(policy).is_dir()
        return MAIN if round_index <= self._data.first_round and not (round_index and exists) else policy

    def become(self, policy: str, round_index: int) -> None:
        """Takes the weights of a policy at t into memory, unless it is there.

        Args:
            policy: "main", or another policy of the run, such as "player_1".
            round_index: t.
        """
        assert self.policy is not None
        policy = self.value_of(policy, round_index)
        if self.in_memory == (policy, round_index):
            return
        source = self.run_folder.policy_source(round_index, self.policy_source, policy)
        self.policy.load_state_dict(load_policy(source, self.policy_dtype, self.trust_remote_code).state_dict())
        self.in_memory = (policy, round_index)

    @property
    def _data(self) -> SelfPlayDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def position(self) -> Position:
        """Where the run stands."""
        return self._data.position(self.trainer.current_epoch)

    def configure_model(self) -> None:
        """Loads the start policy, or the policy a fork begins with."""
        if self.policy is None:
            self.rounds_finished = self._data.first_round
            self.in_memory = (MAIN, self.rounds_finished)
            source = self.run_folder.policy_source(self.rounds_finished, self.policy_source)
            # After a resume nothing else would switch gradient checkpointing and the like on.
            policy: Any = load_policy(source, self.policy_dtype, self.trust_remote_code).train()
            if self._gradient_checkpointing:
                policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.policy = policy

    @property
    def layout(self) -> Layout:
        """How rows go through the policy; said once."""
        if self._layout is None:
            assert self.policy is not None
            self._layout = layout_of(self.policy)
            rank_zero_info(f"training: {self._layout}")
        return self._layout

    def configure_callbacks(self) -> list[pl.Callback]:
        """Checkpoints are part of the loop, not a matter of configuration."""
        return [RoundCheckpoint(self._checkpoint_every_n_steps)]

    # --- optimiser and schedule --------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Lightning calls this once; `on_train_epoch_start` has it called again for each round."""
        optimizer = self._make_optimizer(self.parameters())
        epochs = self._lr_schedule_epochs or self._epochs_until_reset
        horizon = self._steps_per_epoch * epochs
        scheduler = get_scheduler(
            self._lr_schedule,
            optimizer,
            num_warmup_steps=round(self._warmup_ratio * horizon),
            num_training_steps=horizon,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    @property
    def _epochs_until_reset(self) -> int:
        """How long one optimiser lives: a rate that reached 0 after the first fit would stay there for good."""
        if self.reset_optimizer == "round":
            return self._data.epochs_per_round
        assert self.trainer.max_epochs is not None
        # A phase after which everything is put back moves the rate nowhere.
        phases = self.schedule.phases
        lasting = sum(phase.begins != "round_start" for phase in phases)
        return self.trainer.max_epochs * lasting // len(phases)

    def on_train_epoch_start(self) -> None:
        """A phase's first epoch starts with the weights, the optimiser and the learning rate that the phase asks for.

        Lightning does not call this on a resume within an epoch, so the checkpoint's optimiser stays.
        """
        position = self.position
        if not position.first_epoch:
            return
        self.in_training = (position.round, position.phase)
        self.began_at = self.trainer.global_step
        # Rounds differ where prompts are skipped; a rate that goes on must not reach 0 before the last of them.
        fresh = self.reset_optimizer == "round"
        self._steps_per_epoch = int(self.trainer.num_training_batches) if fresh else self._data.most_steps_per_epoch
        if fresh or self.trainer.global_step == 0:
            self.trainer.strategy.setup_optimizers(self.trainer)
        phases = self.schedule.phases
        if position.phase == 0 and any(phase.begins == "round_start" for phase in phases):
            save_round_start(self, position.round)
        match phases[position.phase].begins:
            case "round_start":
                restore_round_start(self, position.round)
                self.in_memory = (MAIN, position.round)
            case "own":
                self.become(phases[position.phase].trains, position.round)

    # --- one global step ---------------------------------------------------------------------------------------------

    def training_step(self, batch: GlobalBatch, batch_idx: int) -> None:
        """Accumulates over the packs, divides by the weight of the whole global batch, clips, and steps.

        The gradient is that of (sum over rows of weight * loss) / (sum of weights), however the rows are packed.
        """
        assert self.policy is not None
        step = self.trainer.global_step
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        optimizer.zero_grad()
        step_metrics = StepMetrics()
        total_weight = torch.zeros((), device=self.device)
        mismatched = self._mismatched_log_ratio(batch) if self.objective.mismatched else None
        for pack in batch.packs:
            loss, inputs, outputs = self._loss(pack, mismatched)
            self.manual_backward(loss)
            total_weight += outputs.weight.sum()
            step_metrics.update(inputs, outputs)
        grad_norm = self._normalise_and_clip(total_weight)
        learning_rate = optimizer.param_groups[0]["lr"]
        crash_point("before_optimizer_step")
        optimizer.step()
        crash_point("after_optimizer_step")
        scheduler.step()
        # Logged here rather than by self.log, which sends only after the checkpoint of this step is written: a kill in
        # between would lose the line for good.
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            metrics = step_metrics.compute() | {
                "train/grad_norm": float(grad_norm),
                "train/learning_rate": learning_rate,
            }
            for logger in self.loggers:
                logger.log_metrics(metrics, step=step)
        crash_point("after_step_metrics")

    def _loss(self, pack: Pack, mismatched: Tensor | None) -> tuple[Tensor, ObjectiveInputs, ObjectiveOutputs]:
        """A pack's summed loss, and what the objective saw and answered."""
        assert self.policy is not None
        # Among the inputs is frozen_logps["previous"]: log pi_t, fixed when the round was played.
        fixed = replace(pack.inputs(torch.empty(0, device=self.device)), kl_logps_R=mismatched)
        inputs, outputs = fixed, None

        def loss_of(logps_R: Tensor) -> Tensor:
            nonlocal inputs, outputs
            inputs = replace(fixed, policy_logps_R=logps_R)
            outputs = self.objective(inputs)
            return (outputs.loss * outputs.weight).sum()

        loss = response_loss(self.policy, pack.rows, loss_of)
        assert outputs is not None
        return loss, inputs, outputs

    @torch.no_grad()
    def _mismatched_log_ratio(self, batch: GlobalBatch) -> Tensor:
        """[1] the mean log-ratio over the global batch's prompts with other prompts' responses, over all ranks."""
        rows = TokenRows(
            prompt_ids=[row.prompt_ids for row in batch.mismatched],
            response_ids=[row.response_ids for row in batch.mismatched],
        )
        (reference,) = self.objective.needs
        frozen = sum(row.frozen_logps[reference] for row in batch.mismatched)
        policy = frozen_logps(self.policy_handle, rows, self._data.max_pack_tokens).sum() if batch.mismatched else 0.0
        sums = torch.tensor([float(policy - frozen), float(len(batch.mismatched))], device=self.device)
        total, count = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return (total / count).reshape(1)

    def _normalise_and_clip(self, total_weight: Tensor) -> Tensor:
        """Turns gradient sums into the mean over the global batch; returns its 2-norm before clipping."""
        total_weight = self.trainer.strategy.reduce(total_weight, reduce_op="sum")
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        # Strategies average gradients over ranks; the sum is wanted. A batch of masked rows has weight 0 and no
        # gradient.
        torch._foreach_mul_(gradients, self.trainer.world_size / total_weight.clamp(min=1e-12).item())
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), self._max_grad_norm, norm)
        return norm

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Exports pi_{t+1} after the round's last step, before any callback's end of the epoch looks for it."""
        position = self.position
        if not position.phase_ends or batch_idx + 1 < self.trainer.num_training_batches:
            return
        phase = self.schedule.phases[position.phase]
        self.in_memory = (phase.trains, position.round + 1)
        if position.last_epoch:
            self.rounds_finished = position.round + 1
        if self.trainer.is_global_zero:
            run = self.run_folder
            if position.last_epoch and self._data.exports_after(position.round):
                beside = {policy: run.phase_export(position.round, policy) for policy in self.schedule.kept}
                export_policy(self.policy, self.tokenizer, run.export(position.round), beside)
            elif phase.keeps:
                export_policy(self.policy, self.tokenizer, run.phase_export(position.round, phase.trains))
        self.trainer.strategy.barrier()

    def on_train_epoch_end(self) -> None:
        """Stops after the round where that was asked for; the checkpoint is written after this."""
        if self._data.stop_after == "round" and self.position.last_epoch:
            self.trainer.should_stop = True
        crash_point("before_epoch_checkpoint")

    # --- what a resume needs beyond weights and optimiser ------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the round's place in the run."""
        checkpoint["sppo_round"] = {
            "in_memory": self.in_memory,
            "in_training": self.in_training,
            "began_at": self.began_at,
            "rounds_finished": self.rounds_finished,
            "steps_per_epoch": self._steps_per_epoch,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reads it back."""
        state = checkpoint["sppo_round"]
        self.in_memory = state["in_memory"]
        self.in_training = state["in_training"]
        self.began_at = state["began_at"]
        self.rounds_finished = state["rounds_finished"]
        self._steps_per_epoch = state["steps_per_epoch"]
