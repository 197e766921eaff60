"""Log-probabilities under frozen policies: computed once a round, by the training stack's own function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sppo_lightning.functional.layout import layout_of
from sppo_lightning.functional.logps import response_logps
from sppo_lightning.functional.rows import TokenRows, split_prompts
from sppo_lightning.training.policies import unknown_policy
from sppo_lightning.training.schedule import Schedule
from sppo_lightning.types import Policies, PolicyHandle


@torch.no_grad()
def frozen_logps(policy: PolicyHandle, rows: TokenRows, max_pack_tokens: int) -> Tensor:
    """Log pi(response | prompt) of every row.

    The same function, layout, dtype and kernels as in training, so the log-ratio of the policy to itself is exactly
    zero in the same packs, and zero up to rounding in others.

    Args:
        policy: whose log-probabilities.
        rows: R prompts with one response each; those of a prompt side by side share it.
        max_pack_tokens: bound on the tokens that go through the model at once.

    Returns:
        [R] float32 nats on the CPU.
    """
    logps_R = torch.empty(len(rows))
    spans = rows.prompt_spans
    packed = layout_of(policy.model).packed
    for pack in split_prompts(rows.prompt_lengths, max_pack_tokens, packed=packed):
        indices = [row for span in pack for row in spans[span]]
        logps_R[indices] = response_logps(policy.model, rows.at(indices)).cpu()
    return logps_R


def existing_policies(needs: Sequence[str], schedule: Schedule, phase_index: int, round_index: int) -> tuple[str, ...]:
    """Those of an objective's `needs` that a phase of round t has: a history reaches back to the start policy.

    Raises:
        ConfigError: the schedule has no policy of that name.
    """
    existing = []
    for name in needs:
        version = schedule.version(name, phase_index, round_index)
        if version is None:
            raise unknown_policy(name, schedule)
        if version[1] >= 0:
            existing.append(name)
    return tuple(existing)


def reference_function(policies: Policies, max_pack_tokens: int) -> Callable[[str, TokenRows], Tensor]:
    """What `play_round` calls for the names in an objective's `needs`.

    Args:
        policies: the policies by name.
        max_pack_tokens: see `frozen_logps`.
    """

    def reference_logps(name: str, rows: TokenRows) -> Tensor:
        return frozen_logps(policies.named(name), rows, max_pack_tokens)

    return reference_logps
