"""The policies of a run by their place in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sppo_lightning.errors import ConfigError
from sppo_lightning.training.policy import StoredPolicy
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.training.schedule import MAIN, Schedule, kind
from sppo_lightning.types import PolicyHandle

if TYPE_CHECKING:
    from sppo_lightning.training.module import PolicyModule


class ReachablePolicies:
    """The policies that a phase of round t needs, as `types.Policies`.

    The one in training is in memory; others lie on disk and are loaded one at a time.

    Args:
        module: the policy in training.
        round_index: t.
        phase_index: the phase.
    """

    def __init__(self, module: PolicyModule, round_index: int, phase_index: int = 0) -> None:
        self._module, self._round_index, self._phase_index = module, round_index, phase_index
        self._loaded: StoredPolicy | None = None

    def named(self, name: str) -> PolicyHandle:
        """A policy by the name that an objective or an opponent has for it; "current" is the one in memory.

        Raises:
            ConfigError: the run's schedule has no policy of that name.
        """
        if name == "current":
            return self._module.policy_handle
        version = self._module.schedule.version(name, self._phase_index, self._round_index)
        if version is None:
            raise unknown_policy(name, self._module.schedule)
        return self._of(*version)

    def of_round(self, round_index: int) -> PolicyHandle:
        """The main policy that plays round `round_index`."""
        return self._of(MAIN, round_index)

    def start(self) -> PolicyHandle:
        """The policy the run started from."""
        return self.of_round(0)

    def stored(self, source: str) -> PolicyHandle:
        """The policy in a Hugging Face folder or under a hub id."""
        return self._load(source, source)

    def close(self) -> None:
        """Frees the stored policy."""
        if self._loaded is not None:
            self._loaded.close()
        self._loaded = None

    def _of(self, policy: str, round_index: int) -> PolicyHandle:
        assert round_index >= 0, "training.reference.existing_policies and Opponent.weights leave these out"
        module = self._module
        policy = module.value_of(policy, round_index)
        if (policy, round_index) == module.in_memory:
            return module.policy_handle
        source = module.run_folder.policy_source(round_index, module.policy_source, policy)
        return self._load(policy_name(round_index, policy), source)

    def _load(self, name: str, source: str) -> PolicyHandle:
        if self._loaded is None or self._loaded.name != name:
            self.close()
            module = self._module
            self._loaded = StoredPolicy(
                name, source, module.tokenizer, module.policy_dtype, module.device, module.trust_remote_code
            )
        return self._loaded


def unknown_policy(name: str, schedule: Schedule) -> ConfigError:
    """The error about a policy that a schedule does not train."""
    owners = {"auxiliary": "TwoFits", "player": "Players, with an oracle for each of them"}
    owner = owners.get(name.split("/")[0])
    way_out = f"Set model.schedule {owner}" if owner else 'There are "previous", "history/1", ... and "anchor"'
    return ConfigError(
        f"model.objective needs the log-probabilities of a policy {name!r}, and model.schedule {kind(schedule)} has "
        f"none of that name. {way_out}"
    )
