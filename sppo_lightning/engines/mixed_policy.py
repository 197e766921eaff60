"""Two policies that answer as one."""

from __future__ import annotations

from typing import Any

import torch

from sppo_lightning.errors import EngineError
from sppo_lightning.types import PolicyHandle


class MixedPolicy:
    """The token-wise geometric mixture p^(1-a) q^a of two policies, as `types.PolicyHandle`.

    An engine that does not know this class meets an error when it asks for weights, instead of sampling from p alone.

    Args:
        base: p.
        other: q, with the same tokenizer.
        other_weight: a.
    """

    def __init__(self, base: PolicyHandle, other: PolicyHandle, other_weight: float) -> None:
        self.name = f"{base.name}^{1 - other_weight:g} {other.name}^{other_weight:g}"
        self.base, self.other, self.other_weight = base, other, other_weight

    @property
    def tokenizer(self) -> Any:
        """Both policies' tokenizer."""
        return self.base.tokenizer

    @property
    def folder(self) -> str:
        """No folder holds a mixture.

        Raises:
            EngineError: always.
        """
        raise self._refusal()

    @property
    def dtype(self) -> torch.dtype:
        """Both policies' dtype."""
        return self.base.dtype

    @property
    def model(self) -> torch.nn.Module:
        """No single model is the mixture.

        Raises:
            EngineError: always.
        """
        raise self._refusal()

    def _refusal(self) -> EngineError:
        return EngineError(
            f"data.opponent: the mixture {self.name} can be sampled by the Transformers engine only; set "
            "data.opponent_engine to it"
        )
