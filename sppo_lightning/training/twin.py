"""A second set of modules over the same weights, so that two threads can run one policy at the same time.

What a thread does to a module for the time of a call (a hook, another forward, a config entry) would reach into the
call of the other.
"""

from __future__ import annotations

import copy

from torch import nn

from sppo_lightning.training.policy import LivePolicy
from sppo_lightning.types import Policies, PolicyHandle


def twin_of(model: nn.Module) -> nn.Module | None:
    """A copy of a model, in eval mode, that shares its parameters and costs no memory to speak of.

    Returns:
        None where modules cannot be told apart from their weights: sharded ones, whose threads would have to take
        turns in talking to other processes, and ones whose forward was replaced by a function that knows the original.
    """
    if any("forward" in vars(module) for module in model.modules()):
        return None
    parameters = list(model.parameters())
    if any(type(parameter) is not nn.Parameter or hasattr(parameter.data, "device_mesh") for parameter in parameters):
        return None
    return copy.deepcopy(model, {id(parameter): parameter for parameter in parameters}).eval()


class TwinPolicies:
    """The same policies, with a twin where the model is one that is in use elsewhere.

    Args:
        policies: the policies.
        model: what is in use.
        twin: of it.
    """

    def __init__(self, policies: Policies, model: nn.Module, twin: nn.Module) -> None:
        self._policies, self._model, self._twin = policies, model, twin

    def named(self, name: str) -> PolicyHandle:
        """See `Policies`."""
        return self._with_twin(self._policies.named(name))

    def stored(self, source: str) -> PolicyHandle:
        """See `Policies`."""
        return self._with_twin(self._policies.stored(source))

    def _with_twin(self, policy: PolicyHandle) -> PolicyHandle:
        if policy.model is not self._model:
            return policy
        return LivePolicy(policy.name, policy.folder, self._twin, policy.tokenizer)
