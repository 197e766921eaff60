"""The socket for oracles that make their verdicts from those of other oracles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Self

from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.types import Candidates, Prompt


class ComposedOracle(PreferenceOracle):
    """An oracle that asks others, its members, and computes its own verdicts from theirs.

    What costs something is asking the members. So a cache, a budget or a choice of pairs stands around each member
    (`asking`), and the same members composed in another way ask nobody again.
    """

    costs = False  # composing is a short computation

    @property
    @abstractmethod
    def members(self) -> Mapping[str, PreferenceOracle]:
        """The oracles that are asked, by a short name each."""

    @abstractmethod
    def asking(self, members: Mapping[str, PreferenceOracle]) -> Self:
        """The same composition of other members; this one stays as it is.

        Args:
            members: one for each name of `members`.
        """

    @property
    def works_on(self) -> str:  # type: ignore[override]
        """Where the members work; the policy's device where they differ, so that nothing goes on beside them."""
        places = {member.works_on for member in self.members.values()}
        return places.pop() if len(places) == 1 else "policy"

    @property
    def judges_pairs_alone(self) -> bool:  # type: ignore[override]
        """Whether all members do."""
        return all(member.judges_pairs_alone for member in self.members.values())

    @property
    def chooses_pairs(self) -> bool:  # type: ignore[override]
        """Whether a member does."""
        return any(member.chooses_pairs for member in self.members.values())

    @property
    def asked_by(self) -> Literal["pair", "response"]:  # type: ignore[override]
        """Pairs, if a member works through pairs."""
        return "pair" if any(member.asked_by == "pair" for member in self.members.values()) else "response"

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Every member's rule."""
        for member in self.members.values():
            member.check_prompts(prompts)

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """Of the members as they are in that round."""
        return self.asking({name: member.for_round(earlier) for name, member in self.members.items()})

    def measured(self) -> dict[str, float]:
        """What the members measured; of several, `<metric>_<name>`."""
        alone = len(self.members) == 1
        return {
            metric if alone else f"{metric}_{name}": value
            for name, member in self.members.items()
            for metric, value in member.measured().items()
        }

    def close(self) -> None:
        """Frees what the members loaded."""
        for member in self.members.values():
            member.close()
