"""The socket for preference oracles: responses in, P(row beats column) out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal

from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


class PreferenceOracle(ABC):
    """Judges responses pair by pair. `oracle` always means a preference oracle, never a scalar reward.

    Subclasses take plain constructor arguments (they become configuration keys under `data.oracle`). An oracle that
    holds a model loads it on first use and lets go of it in `close`.

    Attributes:
        gives_scores: its matrices carry `scores_BK`, which some objectives read.
        costs: a verdict costs time or money, so it is kept and never asked for twice. False for a short computation.
        judges_pairs_alone: its verdict on two responses does not depend on which others it is asked about. Without
            that, pairs cannot be left out.
        chooses_pairs: it leaves out pairs of its own accord, so one without a verdict is none that it failed at.
        asked_by: what it works through one at a time; where that is responses, leaving out pairs saves nothing.
        queries_per_pair: how often it is asked about one pair.
        usd_per_query: what a query costs, where the judge knows; `data.judging.usd_per_query` says it otherwise.
        not_deciding: names of constructor arguments that do not decide a verdict, such as an address or a batch size;
            verdicts are kept under all the others.
        works_on: where its work is done, which decides what may go on at the same time: "policy", the policy's device;
            "cpu"; another device such as "cuda:1"; "elsewhere", such as on a server.
    """

    gives_scores: bool = False
    costs: bool = True
    judges_pairs_alone: bool = True
    chooses_pairs: bool = False
    asked_by: Literal["pair", "response"] = "pair"
    queries_per_pair: int = 1
    usd_per_query: float | None = None
    not_deciding: frozenset[str] = frozenset()
    works_on: str = "policy"

    @property
    def itself(self) -> PreferenceOracle:
        """Whose verdicts these are: another oracle's where this one only keeps them."""
        return self

    @property
    def name(self) -> str:
        """Names this oracle's preference files; the class name unless a subclass says otherwise."""
        return type(self).__name__

    @property
    def usd(self) -> float | None:
        """What its queries have cost since it was made, US dollars; None where it does not count them itself."""
        return None

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:  # noqa: B027 - most oracles judge answers to anything
        """Refuses prompts that it cannot judge answers to, before anything is generated.

        Raises:
            OracleError: names the prompt and what it lacks.
        """

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """The oracle as it judges the next round; `self` unless what was answered before changes that.

        Everything else, held-out evaluation first, is judged by the oracle itself, so that figures of different rounds
        can be compared.

        Args:
            earlier: the responses of each earlier round of the run, oldest first, in parts; read only if iterated over.

        Returns:
            An oracle that depends on the constructor's arguments and on `earlier` alone: what a resumed run is given.
        """
        return self

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
