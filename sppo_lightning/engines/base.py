"""The socket for generation engines: a policy and prompts in, K sampled responses a prompt out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sppo_lightning.types import Candidates, PolicyHandle, Prompt, SamplingConfig


class Engine(ABC):
    """Samples responses: token ids in, token ids out.

    Subclasses take plain constructor arguments (they become configuration keys under `data.engine`).

    Attributes:
        sampling: how responses are drawn, from the constructor's arguments.
        reads_folder: it answers with the weights in `policy.folder`, so they must lie on disk, and a `MixedPolicy`,
            which has no folder, cannot be asked.
    """

    sampling: SamplingConfig
    reads_folder: bool = False

    def check(self, source: str) -> None:  # noqa: B027 - most engines take any policy
        """Refuses what would fail later, before anything expensive.

        Args:
            source: the Hugging Face folder or hub id of a policy that will be opened.

        Raises:
            ConfigError: something is not installed or cannot be reached, or the engine cannot serve such a policy.
        """

    @abstractmethod
    def open(self, policy: PolicyHandle) -> None:
        """Makes the engine answer with this policy, until `close` or the next `open`."""

    @abstractmethod
    def generate(self, prompts: Sequence[Prompt], seeds_BK: Sequence[Sequence[int]]) -> Candidates:
        """Samples one response for each seed.

        The response to a seed depends on the policy, the prompt and the seed, not on what else is in the call (up to
        arithmetic ties), so that sharding and resuming change nothing.

        Args:
            prompts: B prompts, in any order; the answer is in the same order.
            seeds_BK: [B][K] 63-bit seeds.

        Returns:
            K responses for each prompt.

        Raises:
            EngineError: the engine failed or is not open.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what `open` took, all device memory included."""
