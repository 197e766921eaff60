"""The socket for preference oracles: responses in, P(row beats column) out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


class PreferenceOracle(ABC):
    """Judges responses pair by pair. `oracle` always means a preference oracle, never a scalar reward.

    Subclasses take plain constructor arguments (they become configuration keys under `data.oracle`). An oracle that
    holds a model loads it on first use and lets go of it in `close`.

    Attributes:
        gives_scores: its matrices carry `scores_BK`, which some objectives read.
    """

    gives_scores: bool = False

    @property
    def name(self) -> str:
        """Names this oracle's preference files; the class name unless a subclass says otherwise."""
        return type(self).__name__

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:  # noqa: B027 - most oracles judge answers to anything
        """Refuses prompts that it cannot judge answers to, before anything is generated.

        Raises:
            OracleError: names the prompt and what it lacks.
        """

    @abstractmethod
    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Judges every pair of responses to the same prompt.

        Args:
            candidates: K responses for each of B prompts.
            opponents: J responses for each of the same prompts, by another policy; None compares the candidates with
                each other.

        Returns:
            probs [B, K, K] in self-play, [B, K, J] against opponents, averaged over both orders of presentation.
        """

    def measured(self) -> dict[str, float]:
        """What judging showed beside the verdicts since the object was made, for the round's metrics."""
        return {}

    def close(self) -> None:  # noqa: B027 - most oracles hold nothing
        """Frees what `compare` loaded. The oracle can be used again afterwards."""
