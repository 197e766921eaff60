"""The policies of a run by their place in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sppo_lightning.training.policy import StoredPolicy
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.types import PolicyHandle

if TYPE_CHECKING:
    from sppo_lightning.training.module import PolicyModule


class ReachablePolicies:
    """The policies that round t needs: pi_t is the one in training, earlier ones lie on disk, one in memory at a time.

    Args:
        module: the policy in training.
        round_index: t.
    """

    def __init__(self, module: PolicyModule, round_index: int) -> None:
        self._module, self._round_index = module, round_index
        self._stored: StoredPolicy | None = None

    def at_lag(self, lag: int) -> PolicyHandle:
        """pi_{t - lag}."""
        return self.of_round(self._round_index - lag)

    def start(self) -> PolicyHandle:
        """The fixed pi_ref: the policy the run started from."""
        return self.of_round(0)

    def of_round(self, round_index: int) -> PolicyHandle:
        """The policy that plays round `round_index`."""
        module = self._module
        assert round_index >= 0, "training.reference.existing_policies and Opponent.weights leave these out"
        if round_index == self._round_index:
            return module.policy_handle
        if self._stored is None or self._stored.name != policy_name(round_index):
            self.close()
            self._stored = StoredPolicy(
                policy_name(round_index),
                module.run_folder.policy_source(round_index, module.policy_source),
                module.tokenizer,
                module.policy_dtype,
                module.device,
                module.trust_remote_code,
            )
        return self._stored

    def close(self) -> None:
        """Frees the stored policy."""
        if self._stored is not None:
            self._stored.close()
        self._stored = None
