"""The socket for generation engines: a policy and prompts in, K sampled responses a prompt out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from sppo_lightning.types import Candidates, PolicyHandle, Prompt, SamplingConfig


class MemoryLender(Protocol):
    """Training that can make room on its device while an engine needs it; both calls may be repeated."""

    def lend(self) -> None:
        """Moves weights and optimiser to main memory."""
        ...

    def take_back(self) -> None:
        """Moves them back, if they are away."""
        ...


class Engine(ABC):
    """Samples responses: token ids in, token ids out.

    Subclasses take plain constructor arguments (they become configuration keys under `data.engine`).

    Attributes:
        sampling: how responses are drawn, from the constructor's arguments.
        reads_folder: it answers with the weights in `policy.folder`, so they must lie on disk, and a `MixedPolicy`,
            which has no folder, cannot be asked.
        works_on: where its work is done, which decides what may go on at the same time: "policy", the policy's device;
            "cpu"; another device such as "cuda:1"; "elsewhere", such as on a server.
        lender: whoever trains in this process, where that is somebody's memory an engine may ask for.
    """

    sampling: SamplingConfig
    reads_folder: bool = False
    works_on: str = "policy"
    lender: MemoryLender | None = None

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
