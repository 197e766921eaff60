"""Checks of constructor arguments, with errors that name the configuration key."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sppo_lightning.errors import ConfigError


def _refuse(name: str, rule: str, value: object) -> ConfigError:
    return ConfigError(f"model.objective.{name}: must be {rule}, got {value!r}")


def positive(name: str, value: float) -> float:
    """Returns `value` as a float.

    Args:
        name: the constructor argument, the last part of its configuration key.
        value: what was given.

    Raises:
        ConfigError: `value` is not a finite number above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise _refuse(name, "a finite number above 0", value)
    return float(value)


def non_negative(name: str, value: float) -> float:
    """Returns `value` as a float.

    Args:
        name: the constructor argument, the last part of its configuration key.
        value: what was given.

    Raises:
        ConfigError: `value` is not a finite number of at least 0.
    """
    if not (math.isfinite(value) and value >= 0):
        raise _refuse(name, "a finite number of at least 0", value)
    return float(value)


def share(name: str, value: float, below: float = 1.0) -> float:
    """Returns `value` as a float.

    Args:
        name: the constructor argument, the last part of its configuration key.
        value: what was given.
        below: the limit, excluded.

    Raises:
        ConfigError: `value` is outside [0, `below`).
    """
    if not 0 <= value < below:
        raise _refuse(name, f"at least 0 and below {below:g}", value)
    return float(value)


def anchor_weight(eta: float, tau: float) -> float:
    """Returns eta tau, the weight of pi_ref in a mirror-descent step of the KL-regularised game.

    Args:
        eta: the step, checked.
        tau: strength of the KL to the fixed pi_ref.

    Raises:
        ConfigError: `tau` is negative, or `eta` times `tau` is above 1.
    """
    weight = eta * non_negative("tau", tau)
    if math.isclose(weight, 1):  # eta and tau meant as each other's inverse
        return 1.0
    if weight > 1:
        raise ConfigError(
            f"model.objective.tau: eta * tau is the weight of the anchor and must be at most 1, got {eta:g} * "
            f"{tau:g} = {weight:g}; lower one of them"
        )
    return weight


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """Returns `value`.

    Args:
        name: the constructor argument, the last part of its configuration key.
        value: what was given.
        choices: what may be given.

    Raises:
        ConfigError: `value` is none of `choices`.
    """
    if value not in choices:
        raise _refuse(name, f"one of {', '.join(choices)}", value)
    return value


def weights(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Returns `values` as a tuple of floats.

    Args:
        name: the constructor argument, the last part of its configuration key.
        values: relative weights; 1 and 3 mean a quarter and three quarters.

    Raises:
        ConfigError: there are none, one is negative or not finite, or all are 0.
    """
    if not values or any(not (math.isfinite(value) and value >= 0) for value in values) or sum(values) == 0:
        raise _refuse(name, "finite numbers of at least 0, not all of them 0", list(values))
    return tuple(float(value) for value in values)
