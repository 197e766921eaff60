"""The socket for opponents: whose responses the candidates are compared with."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

from sppo_lightning.engines.mixed_policy import MixedPolicy
from sppo_lightning.errors import ConfigError
from sppo_lightning.types import Policies, PolicyHandle

PREVIOUS = "previous"
"""pi_t itself: as an opponent, the candidates judge each other and nothing more is sampled."""


class Opponent(ABC):
    """A mixture of policies, named as the frozen policies of `types.ObjectiveInputs` are.

    Attributes:
        mixes_policies: it answers with a `MixedPolicy`, whose weights no folder holds.
    """

    mixes_policies: bool = False

    @abstractmethod
    def weights(self, num_past: int) -> dict[str, float]:
        """Mixture weights by name; they sum to 1.

        Args:
            num_past: how many earlier policies exist: t in round t.
        """

    def policy(self, name: str, policies: Policies) -> PolicyHandle:
        """The policy behind one of the names.

        Args:
            name: from `weights`.
            policies: the policies that the round can reach.
        """
        return policies.named(name)

    @property
    def stored(self) -> Sequence[str]:
        """Policies from outside the run, as Hugging Face folders or hub ids: they must have the run's tokenizer."""
        return ()


class SelfPlay(Opponent):
    """pi_t against itself: the K candidates are each other's opponents, no further generation."""

    def weights(self, num_past: int) -> dict[str, float]:
        """All weight on pi_t."""
        return {PREVIOUS: 1.0}


class History(Opponent):
    """The last policies as opponents, pi_t among them.

    Early rounds have fewer past policies than asked for; the weights of those that exist are renormalised, which is
    said once.

    Args:
        num_policies: how many policies the mixture holds: pi_t, pi_{t-1}, ...
        mixture: their weights, newest first; uniform if not given.

    Raises:
        ConfigError: fewer than one policy, or weights that are negative, leave pi_t out, or are not one a policy.
    """

    def __init__(self, num_policies: int = 2, mixture: Sequence[float] | None = None) -> None:
        if num_policies < 1:
            raise ConfigError(f"data.opponent.num_policies must be at least 1, got {num_policies}")
        mixture = [1.0] * num_policies if mixture is None else list(mixture)
        if len(mixture) != num_policies:
            raise ConfigError(
                f"data.opponent.mixture has {len(mixture)} weights for num_policies={num_policies}; give one for each "
                "policy, newest first"
            )
        if min(mixture) < 0 or mixture[0] == 0:
            raise ConfigError(
                f"data.opponent.mixture must be non-negative and its first weight, pi_t's, positive (in round 0 there "
                f"is no other policy), got {mixture}"
            )
        self.mixture = mixture
        self._said_short = False

    def weights(self, num_past: int) -> dict[str, float]:
        """See `Opponent`."""
        available = self.mixture[: num_past + 1]
        if len(available) < len(self.mixture) and not self._said_short:
            self._said_short = True
            warnings.warn(
                f"opponent history: {len(available)} of {len(self.mixture)} policies exist yet; their weights are "
                "renormalised",
                stacklevel=2,
            )
        names = [PREVIOUS, *(f"history/{lag}" for lag in range(1, len(available)))]
        total = sum(available)
        return {name: weight / total for name, weight in zip(names, available, strict=True) if weight > 0}


class CurrentPolicy(Opponent):
    """Responses of their own, sampled from the policy as it stands: pi_t, or its half-step in EGPO's second phase.

    Unlike `SelfPlay`, the candidates may then be sampled in another way than the opponents (`data.opponent_engine`).
    """

    def weights(self, num_past: int) -> dict[str, float]:
        """All weight on the policy in memory."""
        return {"current": 1.0}


class AnchorMixture(Opponent):
    """Nash-MD's opponent, arXiv 2312.00886: the geometric mixture pi_t^(1-a) pi_ref^a, normalised token by token.

    The theory mixes whole responses, whose normaliser cannot be had; mixing each token's distribution is what TRL does
    and what can be sampled. Needs the Transformers engine, which holds both models.

    Args:
        anchor_weight: a, in (0, 1): eta tau in the theory; 0.125 in EGPO's code, 0.5 in TRL.

    Raises:
        ConfigError: `anchor_weight` is outside (0, 1).
    """

    mixes_policies = True

    def __init__(self, anchor_weight: float = 0.125) -> None:
        if not 0 < anchor_weight < 1:
            raise ConfigError(f"data.opponent.anchor_weight must be above 0 and below 1, got {anchor_weight}")
        self.anchor_weight = anchor_weight

    def weights(self, num_past: int) -> dict[str, float]:
        """All weight on the mixture."""
        return {"mixture": 1.0}

    def policy(self, name: str, policies: Policies) -> PolicyHandle:
        """Pi_t with pi_ref beside it."""
        return MixedPolicy(policies.named("current"), policies.named("anchor"), self.anchor_weight)


class Fixed(Opponent):
    """Policies that never change: a best reply to them is trained against these (`exploit`).

    Args:
        policies: Hugging Face folders or hub ids.
        mixture: their weights; uniform if not given.

    Raises:
        ConfigError: no policy, or weights that are not positive or not one a policy.
    """

    def __init__(self, policies: Sequence[str], mixture: Sequence[float] | None = None) -> None:
        if not policies:
            raise ConfigError("data.opponent.policies names no policy; give at least one folder or hub id")
        mixture = [1.0] * len(policies) if mixture is None else list(mixture)
        if len(mixture) != len(policies) or min(mixture) <= 0:
            raise ConfigError(
                f"data.opponent.mixture must hold one positive weight for each of {len(policies)} policies, got "
                f"{mixture}"
            )
        self.sources = {f"fixed/{i}": source for i, source in enumerate(policies)}
        self.mixture = {name: weight / sum(mixture) for name, weight in zip(self.sources, mixture, strict=True)}

    def weights(self, num_past: int) -> dict[str, float]:
        """The same in every round."""
        return self.mixture

    @property
    def stored(self) -> Sequence[str]:
        """All of them."""
        return list(self.sources.values())

    def policy(self, name: str, policies: Policies) -> PolicyHandle:
        """The stored policy."""
        return policies.stored(self.sources[name])
