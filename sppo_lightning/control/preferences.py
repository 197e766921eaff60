"""The socket for preferences between trajectories, and the ones that ship."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.functional import trajectory_preferences as functional
from sppo_lightning.functional.trajectory_preferences import Trajectory


class Preference(ABC):
    """Says which of two trajectories is better. It must fulfil P(a, b) + P(b, a) = 1."""

    @abstractmethod
    def __call__(self, first: Trajectory, second: Trajectory) -> float:
        """P(first is better than second), in [0, 1]."""

    def check(self, observation_size: int) -> None:  # noqa: B027 - most preferences suit any task
        """Refuses a task that the preference cannot judge, before anything is played.

        Raises:
            ConfigError: names the key and what to write.
        """


class MaximumReward(Preference):
    """The larger return of the task's own rewards wins."""

    def __call__(self, first: Trajectory, second: Trajectory) -> float:
        """See `functional.trajectory_preferences.maximum_reward`."""
        return functional.maximum_reward(first, second)


class Noisy(Preference):
    """The larger return wins, with a share of the verdicts turned over.

    Args:
        flip: probability with which the verdict on a pair is turned over, in [0, 1/2).
        seed: of the noise.
    """

    def __init__(self, flip: float = 0.2, seed: int = 0) -> None:
        if not 0 <= flip < 0.5:
            raise ConfigError(f"data.preference.flip must lie in [0, 0.5), got {flip}: at 0.5 a verdict says nothing")
        self.flip, self.seed = flip, seed

    def __call__(self, first: Trajectory, second: Trajectory) -> float:
        """See `functional.trajectory_preferences.noisy`."""
        return functional.noisy(first, second, self.flip, self.seed)


class NonMarkovian(Preference):
    """The larger return over the early part wins, as long as the return of the late part stays under a limit.

    Args:
        limit: what the return of the late part must stay under, in the task's units.
        early: the share of the horizon that counts as early, in (0, 1).
    """

    def __init__(self, limit: float, early: float = 0.75) -> None:
        if not 0 < early < 1:
            raise ConfigError(f"data.preference.early must lie in (0, 1), got {early}")
        self.limit, self.early = limit, early

    def __call__(self, first: Trajectory, second: Trajectory) -> float:
        """See `functional.trajectory_preferences.non_markovian`."""
        return functional.non_markovian(first, second, self.limit, self.early)


class SectorMajority(Preference):
    """Three sub-populations, each wanting an angle to spend more time in a sector of its own; the majority decides.

    Intransitive: every fixed split of the time is beaten by another one, see `time_in_sectors`.

    Args:
        cosine: the place of the angle's cosine in an observation, from 0.
        sine: the place of its sine.
    """

    def __init__(self, cosine: int, sine: int) -> None:
        self.cosine, self.sine = cosine, sine

    def check(self, observation_size: int) -> None:
        """See the base class."""
        for name, place in (("cosine", self.cosine), ("sine", self.sine)):
            if not 0 <= place < observation_size:
                raise ConfigError(
                    f"data.preference.{name} must be a place in the task's observations, 0 to {observation_size - 1}, "
                    f"got {place}"
                )

    def __call__(self, first: Trajectory, second: Trajectory) -> float:
        """See `functional.trajectory_preferences.majority`."""
        shares = (functional.time_in_sectors(each, self.cosine, self.sine) for each in (first, second))
        return functional.majority(*shares)


class UserFunction(Preference):
    """A function of your own: `def prefer(first, second) -> float`, of two `Trajectory`s.

    Args:
        function: `path.py:name`. The file is run: name only files that you trust.
    """

    def __init__(self, function: str) -> None:
        path, _, name = function.rpartition(":")
        if not path or not name:
            raise ConfigError(f"data.preference.function: write FILE.py:NAME, got {function!r}")
        self.function = function
        self._prefer = _load(path, name)

    def __call__(self, first: Trajectory, second: Trajectory) -> float:
        """What the function says."""
        return self._prefer(first, second)


def _load(path: str, name: str) -> Any:
    key = "data.preference.function"
    if not Path(path).is_file():
        raise ConfigError(f"{key}: there is no file {path}")
    spec = spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{key}: {path} is not a Python file; write FILE.py:NAME")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{key}: {path} cannot be run: {type(error).__name__}: {error}") from error
    prefer = getattr(module, name, None)
    if not callable(prefer):
        functions = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ConfigError(f"{key}: {path} has no function {name}; it has {', '.join(functions) or 'none'}")
    return prefer


def verdict(preference: Preference, first: Trajectory, second: Trajectory) -> float:
    """P(first is better than second), checked.

    Raises:
        OracleError: the preference failed, or its answer is not a probability; names it and the pair.
    """
    who, pair = _name(type(preference)), f"between {first.name} and {second.name}"
    if isinstance(preference, UserFunction):
        who = preference.function
    try:
        prob = float(preference(first, second))
    except OracleError:
        raise
    except Exception as error:
        raise OracleError(f"data.preference: {who} failed {pair}: {type(error).__name__}: {error}") from error
    if not math.isfinite(prob) or not 0 <= prob <= 1:
        raise OracleError(f"data.preference: {who} must return a probability in [0, 1], got {prob} {pair}")
    return prob


def check_symmetry(preference: Preference, first: Trajectory, second: Trajectory) -> None:
    """Asks in both orders.

    Raises:
        OracleError: the two answers do not add up to 1.
    """
    there, back = verdict(preference, first, second), verdict(preference, second, first)
    if abs(there + back - 1) > 1e-6:
        raise OracleError(
            f"data.preference: {_name(type(preference))} gives P(a, b) = {there} and P(b, a) = {back} for "
            f"{first.name} and {second.name}; they must add up to 1"
        )


@cache
def _name(kind: type) -> str:
    return kind.__name__.removeprefix("LazyInstance_")
