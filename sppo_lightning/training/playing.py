"""Has a round played by the members that a run's data module names, with the policy in training as pi_t."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sppo_lightning.io import carriers
from sppo_lightning.selfplay.players import RoundPlayers, RoundSettings
from sppo_lightning.selfplay.round import play_round
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.reference import existing_policies, reference_function
from sppo_lightning.training.world import TrainerWorld

if TYPE_CHECKING:
    from sppo_lightning.training.data import SelfPlayDataModule


def play(data: SelfPlayDataModule, round_index: int, global_step: int) -> None:
    """Plays round t, or what is missing of it.

    Args:
        data: the run's members and settings, attached to a Trainer.
        round_index: t.
        global_step: optimiser steps taken so far.
    """
    module = data.module
    folder = module.run_folder.round(round_index)
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
    policies = ReachablePolicies(module, round_index)
    players = RoundPlayers(
        engine=data.engine,
        oracle=data.oracle,
        opponent=data.opponent,
        pairing=data.pairing,
        policy=policies.at_lag,
        needs=existing_policies(module.objective.needs, round_index),
        reference_logps=reference_function(policies.at_lag, policies.start, data.max_pack_tokens),
        truncated=data.truncated,
        self_comparison=data.self_comparison,
        world=TrainerWorld(module.trainer),
        progress=data.progress,
    )
    # Lightning asks for loaders in training mode with gradients on.
    module.eval()
    with torch.no_grad():
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
