"""The run's policies and their held-out responses, as the callbacks that evaluate share them."""

from __future__ import annotations

import lightning.pytorch as pl
from sppo_lightning.callbacks.round_end import self_play_data

from sppo_lightning.evaluation.contestants import Member
from sppo_lightning.evaluation.responses import OWN_SET, ResponseBank
from sppo_lightning.io.files import write_json_atomic
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.types import PolicyHandle


def member_of_round(module: PolicyModule, round_index: int) -> Member:
    """The policy that plays round `round_index`, under its name in this run."""
    source = module.run_folder.policy_source(round_index, module.policy_source)
    return Member(name=policy_name(round_index), source=source)


def members_until(module: PolicyModule, round_index: int) -> list[Member]:
    """The start policy and every policy on disk up to the one after round `round_index`."""
    exported = [index for index in range(round_index + 1) if module.run_folder.export(index).is_dir()]
    return [member_of_round(module, index) for index in (0, *(index + 1 for index in exported))]


def held_out_bank(trainer: pl.Trainer, module: PolicyModule, policies: ReachablePolicies) -> ResponseBank:
    """The held-out prompts and who answered them so far, under the run's `eval` folder."""
    data = self_play_data(trainer)

    def open_policy(member: Member) -> PolicyHandle:
        index = next((i for i in range(data.num_rounds + 1) if policy_name(i) == member.name), None)
        return policies.stored(member.source) if index is None else policies.of_round(index)

    folder = module.run_folder.path / "eval"
    bank = ResponseBank(
        folder,
        prompts=data.held_out_prompts,
        engine=data.engine,
        open_policy=open_policy,
        seed=data.seed,
        progress=data.progress,
    )
    if trainer.is_global_zero and not (folder / OWN_SET).is_file():
        write_json_atomic(folder / OWN_SET, {"key": bank.key}, kind="held_out")
    return bank
