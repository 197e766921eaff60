"""Has a round played by the members that a run's data module names, with the policy in training as pi_t."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer

from sppo_lightning.io import carriers
from sppo_lightning.selfplay.opponents import PREVIOUS
from sppo_lightning.selfplay.players import RoundPlayers, RoundSettings
from sppo_lightning.selfplay.round import play_round
from sppo_lightning.training.judge import judge_of_round
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.policy import LivePolicy
from sppo_lightning.training.reference import existing_policies, reference_function
from sppo_lightning.training.scratch_export import policy_on_disk
from sppo_lightning.training.twin import TwinPolicies, twin_of
from sppo_lightning.training.world import TrainerWorld

if TYPE_CHECKING:
    from sppo_lightning.training.data import SelfPlayDataModule


def play(data: SelfPlayDataModule, round_index: int, phase_index: int, global_step: int) -> None:
    """Plays a phase of round t, or what is missing of it.

    Args:
        data: the run's members and settings, attached to a Trainer.
        round_index: t.
        phase_index: which of the schedule's phases.
        global_step: optimiser steps taken so far.
    """
    module, world = data.module, TrainerWorld(data.trainer)  # type: ignore[arg-type]
    phase = module.schedule.phases[phase_index]
    if phase.begins == "own" and phase.plays == phase.trains:
        module.become(phase.trains, round_index)  # or it would be loaded a second time to play
    folder = module.run_folder.round(round_index, phase_index)
    if phase.shares and world.rank == 0 and not folder.exists:
        module.run_folder.round(round_index).share(folder, phase.shares)
    world.barrier()
    if folder.exists:  # begun before a kill, shared with another run, or imported
        prompts, token_ids = carriers.prompts_from(folder.read_prompts())
        settings = RoundSettings(**folder.settings)
    else:
        prompts = data.prompts.of_round(round_index, data.prompts_per_round)
        token_ids = data.prompts.tokens(prompts)
        settings = RoundSettings(
            seed=data.seed,
            num_candidates=data.num_candidates,
            num_opponent_candidates=data.num_opponent_candidates,
            chunk_prompts=data.chunk_prompts,
            num_chunks=-(-len(prompts) // data.chunk_prompts),
        )
    policies = ReachablePolicies(module, round_index, phase_index)
    cpu_at_once = _stages_on_cpu(module.trainer)
    twin = None
    # An engine elsewhere asks the policy in this process, too, to compare what a server answers.
    if (cpu_at_once > 1 or data.engine.reads_folder) and isinstance(policies.named(PREVIOUS), LivePolicy):
        twin = twin_of(policies.named(PREVIOUS).model)
    players = RoundPlayers(
        engine=data.engine,
        opponent_engine=data.opponent_engine,
        oracle=judge_of_round(data, phase.oracle or data.oracle, folder, prompts, settings, round_index, phase_index),
        opponent=data.opponent,
        pairing=data.pairing,
        policies=policies,
        needs=existing_policies(module.objective.needs, module.schedule, phase_index, round_index),
        reference_logps=reference_function(
            policies if twin is None else TwinPolicies(policies, policies.named(PREVIOUS).model, twin),
            data.max_pack_tokens,
        ),
        log_z_draws=module.objective.log_z_draws,
        mismatched=module.objective.mismatched,
        shared=phase.shares,
        truncated=data.truncated,
        self_comparison=data.self_comparison,
        world=world,
        progress=data.progress,
        reward_model=data.reward_model,
        earlier_rounds=[
            module.run_folder.round(earlier, phase_index)
            for earlier in range(data.first_round, round_index)
            if data.reward_model is not None and data.reward_model.earlier_rounds
        ],
        device=str(module.device),
        cpu_at_once=cpu_at_once,
        reference_apart=twin is not None,
    )
    # Lightning asks for loaders in training mode with gradients on.
    module.eval()
    with torch.no_grad(), policy_on_disk(data, world):
        play_round(
            folder,
            round_index=round_index,
            global_step=global_step,
            prompts=prompts,
            prompt_token_ids=token_ids,
            settings=settings,
            players=players,
        )
    policies.close()
    module.train()


def _stages_on_cpu(trainer: Trainer) -> int:
    """How many stages may work at once without sharing a core: each takes as many threads as PyTorch is set to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (torch.get_num_threads() * trainer.num_devices))
