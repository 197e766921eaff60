"""Log-probabilities under frozen policies: computed once a round, by the training stack's own function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.logps import TokenRows, response_logps, split_rows
from sppo_lightning.types import PolicyHandle


@torch.no_grad()
def frozen_logps(policy: PolicyHandle, rows: TokenRows, max_pack_tokens: int) -> Tensor:
    """Log pi(response | prompt) of every row.

    The same function, dtype and kernels as in training, so the log-ratio of the policy to itself is zero up to the
    rounding of differently shaped batches.

    Args:
        policy: whose log-probabilities.
        rows: R prompts with one response each.
        max_pack_tokens: bound on the tokens, padding included, that go through the model at once.

    Returns:
        [R] float32 nats on the CPU.
    """
    logps_R = torch.empty(len(rows))
    for indices in split_rows(rows.lengths, max_pack_tokens):
        batch = TokenRows(
            prompt_ids=[rows.prompt_ids[i] for i in indices], response_ids=[rows.response_ids[i] for i in indices]
        )
        logps_R[indices] = response_logps(policy.model, batch).cpu()
    return logps_R


def lag_of(name: str) -> int | None:
    """How far behind pi_t a frozen policy is: "previous" is pi_t (0), "history/2" pi_{t-2}; "anchor" has no lag.

    Raises:
        ConfigError: a policy that the rounds of this package do not make, such as "auxiliary".
    """
    if name == "anchor":
        return None
    if name == "previous":
        return 0
    if name.startswith("history/"):
        return int(name.removeprefix("history/"))
    raise ConfigError(
        f"model.objective needs the log-probabilities of a policy {name!r}, and no model.schedule here trains one. "
        'Choose an objective whose policies are among "previous", "history/1", ... and "anchor"'
    )


def existing_policies(needs: Sequence[str], round_index: int) -> tuple[str, ...]:
    """Those of an objective's `needs` that round t has: a history reaches back to the start policy, no further.

    Raises:
        ConfigError: see `lag_of`.
    """
    return tuple(name for name in needs if (lag_of(name) or 0) <= round_index)


def reference_function(
    policy_at_lag: Callable[[int], PolicyHandle], anchor: Callable[[], PolicyHandle], max_pack_tokens: int
) -> Callable[[str, TokenRows], Tensor]:
    """What `play_round` calls for the names in an objective's `needs`.

    Args:
        policy_at_lag: lag -> pi_{t - lag}.
        anchor: the fixed pi_ref, the policy the run started from.
        max_pack_tokens: see `frozen_logps`.
    """

    def reference_logps(name: str, rows: TokenRows) -> Tensor:
        lag = lag_of(name)
        return frozen_logps(anchor() if lag is None else policy_at_lag(lag), rows, max_pack_tokens)

    return reference_logps
