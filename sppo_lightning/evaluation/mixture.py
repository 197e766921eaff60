"""The mixture of a run's policies: one policy is drawn for each response.

SPPO's Theorem 3.1 (arXiv 2405.00675) is about the average of the policies that a run went through, the start included,
not about its last one. As policies, not as weights: every response comes whole from one of them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sppo_lightning.errors import DataError
from sppo_lightning.io.assets import SCHEME, resolve
from sppo_lightning.io.files import read_json, write_json_atomic

MIXTURE_FILE = "mixture.json"
_KEYS = ("members", "weighting", "reason")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Policies and the probability of drawing each.

    Example:
        `exports/mixture.json` of a run, which may be moved with its folder:

            {"members": {"package:quickstart/policy": 0.5, "./round_000": 0.5},
             "weighting": "uniform", "reason": "..."}

    Attributes:
        members: folder or hub id -> weight; non-negative, adding up to 1. A member of weight 0 is never asked.
        weighting: how the weights came about: "uniform", "payoff" (the equilibrium of the members' payoff matrix), or
            "given".
        reason: one sentence on why these weights.

    Raises:
        DataError: no members, or weights that are no probabilities.
    """

    members: Mapping[str, float]
    weighting: str = "given"
    reason: str = ""

    def __post_init__(self) -> None:
        if not self.members:
            raise DataError("a mixture needs at least one policy")
        for source, weight in self.members.items():
            if not math.isfinite(weight) or weight < 0:
                raise DataError(f"a mixture's weights are probabilities; {source} has {weight}")
        total = sum(self.members.values())
        if abs(total - 1) > _TOLERANCE:
            listed = ", ".join(f"{source} {weight:g}" for source, weight in self.members.items())
            raise DataError(f"a mixture's weights must add up to 1, these add up to {total:g}: {listed}")
        object.__setattr__(self, "members", MappingProxyType(dict(self.members)))

    @classmethod
    def uniform(cls, sources: Iterable[str], reason: str = "") -> Mixture:
        """Every policy with the same weight.

        Raises:
            DataError: there is none.
        """
        names = list(dict.fromkeys(sources))
        return cls(members={name: 1 / len(names) for name in names}, weighting="uniform", reason=reason)

    @classmethod
    def read(cls, path: str | Path) -> Mixture:
        """Reads a `mixture.json`; its folders are relative to the file, and come back as paths that can be opened.

        `members` may also be a list of policies, which are then drawn with equal probability.

        Raises:
            RunFolderError: the file is missing or is not JSON.
            DataError: what it holds is no mixture, or one of its folders is missing or named twice.
        """
        path = Path(path)
        content = read_json(path)
        if not isinstance(content, dict) or "members" not in content:
            raise DataError(f'{path}: must hold an object with the key "members" (folder or hub id -> weight)')
        unknown = sorted(content.keys() - set(_KEYS))
        if unknown:
            raise DataError(f"{path}: does not know the key {unknown[0]!r}; a mixture has {', '.join(_KEYS)}")
        members = _members(content["members"], path)
        try:
            return cls(
                members=_all_opened(members, path),
                weighting=str(content.get("weighting", "given")),
                reason=str(content.get("reason", "")),
            )
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def write(self, path: str | Path) -> None:
        """Writes a `mixture.json`, complete or not at all; folders relative to the file, so that both can be moved.

        Raises:
            RunFolderError: the disk refused.
        """
        path = Path(path)
        members = {_stored(source, path.parent): weight for source, weight in self.members.items()}
        value = {"members": members, "weighting": self.weighting, "reason": self.reason}
        write_json_atomic(path, value, kind="mixture")


def _members(value: Any, path: Path) -> dict[str, float]:
    if isinstance(value, list) and value and all(isinstance(source, str) for source in value):
        twice = [source for source in value if value.count(source) > 1]
        if twice:
            raise DataError(f"{path}: lists {twice[0]!r} twice; for other than equal weights give an object of weights")
        return {source: 1 / len(value) for source in value}
    numbers = isinstance(value, dict) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) for weight in value.values()
    )
    if not numbers or not value:
        raise DataError(
            f'{path}: "members" must be an object of folders or hub ids with their weights, such as '
            '{"./round_000": 0.5, "./round_001": 0.5}, or a list of them for equal weights'
        )
    return {source: float(weight) for source, weight in value.items()}


def _all_opened(members: Mapping[str, float], path: Path) -> dict[str, float]:
    spelling: dict[str, str] = {}
    opened = {}
    for source, weight in members.items():
        place = _opened(source, path)
        first = spelling.setdefault(resolve(place), source)
        if first != source:
            raise DataError(f"{first!r} and {source!r} are the same folder: name it once, with the sum of the weights")
        opened[place] = weight
    return opened


def _opened(source: str, path: Path) -> str:
    """What a member is called outside of the file: a path, a hub id, or a `package:` name."""
    if source.startswith(SCHEME):
        return source
    folder = path.parent / source
    if folder.is_dir():
        return str(folder.resolve())
    if source.startswith((".", "/")) or not _HUB_ID.fullmatch(source):
        raise DataError(f"the folder of {source!r} is missing: there is no {folder}")
    return source


def _stored(source: str, folder: Path) -> str:
    """A folder relative to the file, begun with a dot, so that no hub id looks like one."""
    if source.startswith(SCHEME) or not Path(source).is_dir():
        return source
    relative = Path(os.path.relpath(Path(source).resolve(), folder.resolve())).as_posix()
    return relative if relative.startswith("..") else f"./{relative}"
