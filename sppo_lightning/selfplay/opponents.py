"""The socket for opponents: whose responses the candidates are compared with."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence

from sppo_lightning.errors import ConfigError


class Opponent(ABC):
    """A mixture over the policy's own past: lag 0 is pi_t itself, lag j is pi_{t-j}."""

    @abstractmethod
    def weights(self, num_past: int) -> dict[int, float]:
        """Mixture weights by lag; they sum to 1.

        Args:
            num_past: how many earlier policies exist: t in round t.
        """


class SelfPlay(Opponent):
    """pi_t against itself: the K candidates are each other's opponents, no further generation."""

    def weights(self, num_past: int) -> dict[int, float]:
        """All weight on lag 0."""
        return {0: 1.0}


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

    def weights(self, num_past: int) -> dict[int, float]:
        """See `Opponent`."""
        available = self.mixture[: num_past + 1]
        if len(available) < len(self.mixture) and not self._said_short:
            self._said_short = True
            warnings.warn(
                f"opponent history: {len(available)} of {len(self.mixture)} policies exist yet; their weights are "
                "renormalised",
                stacklevel=2,
            )
        return {lag: weight / sum(available) for lag, weight in enumerate(available) if weight > 0}
