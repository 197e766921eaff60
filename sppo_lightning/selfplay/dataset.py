"""A committed round as training batches: which rows make up each global step, and the packs they travel in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppo_lightning.functional.rows import TokenRows, split_evenly, split_prompts
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.selfplay.mismatched import next_prompts_response
from sppo_lightning.selfplay.store import DRAWS, RoundFolder, kept_candidates, logps_stage
from sppo_lightning.types import ObjectiveInputs


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """What one prompt contributes: R_p trained responses and the pairs among them, pairs as indices into the rows.

    `mismatched` is there for an objective that asks for such rows.
    """

    prompt_id: str
    prompt_ids: Sequence[int]
    response_ids: Sequence[Sequence[int]]
    candidates: Sequence[int]
    win_rates: Sequence[float]
    scores: Sequence[float] | None
    row_weights: Sequence[float]
    pairs: Sequence[tuple[int, int]]
    pair_probs: Sequence[float]
    pair_weights: Sequence[float]
    frozen_logps: Mapping[str, Sequence[float]]
    log_z: float | None
    mismatched: MismatchedRow | None = None


@dataclass(frozen=True, kw_only=True)
class MismatchedRow:
    """A prompt with another prompt's response, and that pair's log-probability under each frozen policy."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    frozen_logps: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Whole prompts that go through the model together: token rows and everything the objective needs beside them."""

    rows: TokenRows
    targets: ObjectiveInputs  # its policy_logps_R is empty until the policy has run

    def inputs(self, policy_logps_R: Tensor) -> ObjectiveInputs:
        """The objective's inputs, on the device of the policy's log-probabilities."""
        fields = {
            name: value.to(policy_logps_R.device)
            for name, value in vars(self.targets).items()
            if isinstance(value, Tensor)
        }
        fields["policy_logps_R"] = policy_logps_R
        frozen = {name: logps.to(policy_logps_R.device) for name, logps in self.targets.frozen_logps.items()}
        return ObjectiveInputs(frozen_logps=frozen, **fields)


@dataclass(frozen=True, kw_only=True)
class GlobalBatch:
    """One optimiser step: this rank's packs out of `num_prompts` prompts over all ranks, and their mismatched rows."""

    packs: Sequence[Pack]
    num_prompts: int
    mismatched: Sequence[MismatchedRow] = ()


def make_pack(groups: Sequence[PromptGroup]) -> Pack:
    """Concatenates whole prompts; pair indices are shifted to the pack's rows."""
    offsets = np.cumsum([0] + [len(group.response_ids) for group in groups])
    pairs = [
        (offset + chosen, offset + rejected)
        for group, offset in zip(groups, offsets, strict=False)
        for chosen, rejected in group.pairs
    ]

    def rows(values: Callable[[PromptGroup], Sequence[float]]) -> Tensor:
        return torch.tensor([value for group in groups for value in values(group)], dtype=torch.float32)

    log_zs = [group.log_z for group in groups for _ in group.response_ids]
    return Pack(
        rows=TokenRows(
            prompt_ids=[group.prompt_ids for group in groups for _ in group.response_ids],
            response_ids=[ids for group in groups for ids in group.response_ids],
        ),
        targets=ObjectiveInputs(
            policy_logps_R=torch.empty(0),
            frozen_logps={
                name: rows(lambda group, name=name: group.frozen_logps[name])  # type: ignore[misc]
                for name in groups[0].frozen_logps
            },
            num_tokens_R=torch.tensor([len(ids) for group in groups for ids in group.response_ids]),
            win_rate_R=rows(lambda group: group.win_rates),
            prompt_R=torch.tensor([index for index, group in enumerate(groups) for _ in group.response_ids]),
            weight_R=rows(lambda group: group.row_weights),
            pairs_M2=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
            pair_prob_M=rows(lambda group: group.pair_probs),
            weight_M=rows(lambda group: group.pair_weights),
            log_z_R=None if None in log_zs else torch.tensor(log_zs, dtype=torch.float32),
            score_R=None if any(group.scores is None for group in groups) else rows(lambda group: group.scores or ()),
        ),
    )


class RoundDataset:
    """The trained rows of a committed round, grouped by prompt.

    Args:
        groups: the prompts that have something to teach.
        seed: the run's seed; with the round and the epoch it fixes the order of the data.
        round_index: t.
    """

    def __init__(self, groups: Sequence[PromptGroup], *, seed: int, round_index: int) -> None:
        self.groups = groups
        self.seed = seed
        self.round_index = round_index

    @classmethod
    def load(
        cls,
        folder: RoundFolder,
        *,
        needs: Sequence[str],
        log_z: Callable[[Tensor], float | None],
        log_z_from_draws: bool = False,
        mismatched: bool = False,
        seed: int,
    ) -> RoundDataset:
        """Reads a committed round, every file proven by its hash.

        Args:
            folder: the round.
            needs: the frozen policies whose log-probabilities the objective reads.
            log_z: the objective's partition estimate from a prompt's win rates.
            log_z_from_draws: from those of the prompt's further draws instead of its candidates'.
            mismatched: read the prompts with other prompts' responses, too.
            seed: the run's seed.

        Raises:
            RunFolderError: the round is damaged.
        """
        manifest = folder.verify()
        num_chunks = manifest["settings"]["num_chunks"]
        logps: dict[str, dict[tuple[str, int], float]] = {}
        mismatched_logps: dict[str, dict[str, float]] = {}
        for name in needs:
            table = folder.read_stage(logps_stage(name), num_chunks)
            logps[name] = {(row["prompt_id"], row["candidate"]): row["logp"] for row in table.to_pylist()}
            if mismatched:
                table = folder.read_stage(logps_stage(name, mismatched=True), num_chunks)
                mismatched_logps[name] = {row["prompt_id"]: row["logp"] for row in table.to_pylist()}
        targets, pairs = defaultdict(list), defaultdict(list)
        for row in folder.read_table("targets").to_pylist():
            targets[row["prompt_id"]].append(row)
        for row in folder.read_table("pairs").to_pylist():
            pairs[row["prompt_id"]].append(row)
        kept = {(prompt_id, row["candidate"]) for prompt_id, rows in targets.items() for row in rows if row["trained"]}
        token_ids = {}
        for index in range(num_chunks):  # one at a time: as Python objects a whole round takes gigabytes
            chunk = folder.read_chunk("candidates", index).select(["prompt_id", "candidate", "token_ids"])
            for row in chunk.to_pylist():
                if (key := (row["prompt_id"], row["candidate"])) in kept:
                    token_ids[key] = row["token_ids"]

        strangers = next_prompts_response(folder, kept_candidates(folder)) if mismatched else {}
        draws = folder.read_table(DRAWS).to_pylist() if log_z_from_draws else []
        win_rates_of_draws = {row["prompt_id"]: row["win_rates"] for row in draws}

        groups = []
        for prompt in folder.read_table("prompts").to_pylist():
            prompt_id = prompt["prompt_id"]
            trained = [row for row in targets[prompt_id] if row["trained"]]
            if not trained:
                continue
            z = log_z(
                torch.tensor(
                    win_rates_of_draws[prompt_id]
                    if log_z_from_draws
                    else [row["win_rate"] for row in targets[prompt_id]]
                )
            )
            if z is not None and math.isnan(z):  # the judge had no verdict on the draws
                continue
            candidates = [row["candidate"] for row in trained]
            row_of = {candidate: row for row, candidate in enumerate(candidates)}
            groups.append(
                PromptGroup(
                    prompt_id=prompt_id,
                    prompt_ids=prompt["prompt_token_ids"],
                    response_ids=[token_ids[prompt_id, k] for k in candidates],
                    candidates=candidates,
                    win_rates=[row["win_rate"] for row in trained],
                    scores=None if trained[0]["score"] is None else [row["score"] for row in trained],
                    row_weights=[row["weight"] for row in trained],
                    pairs=[(row_of[row["chosen"]], row_of[row["rejected"]]) for row in pairs[prompt_id]],
                    pair_probs=[row["pair_prob"] for row in pairs[prompt_id]],
                    pair_weights=[row["weight"] for row in pairs[prompt_id]],
                    frozen_logps={name: [logps[name][prompt_id, k] for k in candidates] for name in needs},
                    log_z=z,
                    mismatched=MismatchedRow(
                        prompt_ids=prompt["prompt_token_ids"],
                        response_ids=strangers[prompt_id],
                        frozen_logps={name: mismatched_logps[name][prompt_id] for name in needs},
                    )
                    if mismatched
                    else None,
                )
            )
        return cls(groups, seed=seed, round_index=manifest["round"])

    def step_plan(self, epoch: int, global_batch_prompts: int) -> list[list[int]]:
        """Which prompts make up each global step of an epoch: a function of (seed, round, epoch) only.

        Every prompt is seen once an epoch; the last step may be smaller (its mean is still exact).
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "step_plan", self.round_index, epoch))
        order = torch.randperm(len(self.groups), generator=generator).tolist()
        return [order[start : start + global_batch_prompts] for start in range(0, len(order), global_batch_prompts)]

    def batch(
        self, indices: Sequence[int], *, rank: int, world_size: int, max_pack_tokens: int, packed: bool = True
    ) -> GlobalBatch:
        """One rank's share of a global step, about as many tokens as the others', as packs of whole prompts.

        Args:
            indices: the step's prompts, from `step_plan`.
            rank: this process.
            world_size: number of processes.
            max_pack_tokens: bound on a pack's tokens; a prompt that exceeds it alone is a pack.
            packed: the policy takes rows without padding; else padding counts, too.
        """
        groups = [self.groups[index] for index in indices]
        lengths = [(len(group.prompt_ids), list(map(len, group.response_ids))) for group in groups]
        mine = split_evenly([prompt + sum(responses) for prompt, responses in lengths], world_size)[rank]
        packs = split_prompts([lengths[index] for index in mine], max_pack_tokens, packed=packed)
        return GlobalBatch(
            packs=[make_pack([groups[mine[index]] for index in pack]) for pack in packs],
            num_prompts=len(indices),
            mismatched=[row for index in mine if (row := groups[index].mismatched) is not None],
        )
