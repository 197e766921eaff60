"""The games that the lab plays: small ones with a known answer, random families, and measured ones from a file.

Every function returns P [..., N, N] as `games.check_game` does.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from scipy.special import expit

from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.functional.games import Array, check_game


def rps(a: float = 0.9, b: float = 0.7, c: float = 0.8) -> Array:
    """Rock-paper-scissors: response 0 beats 1 with probability a, 1 beats 2 with b, 2 beats 0 with c.

    Its von Neumann winner has probabilities in proportion to (b - 1/2, c - 1/2, a - 1/2) where all three are above 1/2.
    """
    return check_game([[0.5, a, 1 - c], [1 - a, 0.5, b], [c, 1 - b, 0.5]], "rps")


def random(n: int = 20, seed: int = 0) -> Array:
    """Independent uniform preferences: for n = 20 almost always without a Condorcet winner."""
    upper = np.triu(np.random.default_rng(seed).random((_count(n), n)), 1)
    return check_game(upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(n), "random")


def bradley_terry(n: int = 20, seed: int = 0, scale: float = 1.5) -> Array:
    """P = sigmoid(r_i - r_j) with normal rewards r of standard deviation `scale`: transitive, one response is best."""
    rewards = scale * np.random.default_rng(seed).standard_normal(_count(n))
    return check_game(expit(rewards[:, None] - rewards[None, :]), "bradley_terry")


def condorcet(n: int = 20, seed: int = 0, margin: float = 0.05) -> Array:
    """A `random` game in which response 0 beats every other with probability at least 1/2 + margin."""
    probs = random(n, seed)
    probs[0, 1:] = np.maximum(probs[0, 1:], 0.5 + margin)
    probs[1:, 0] = 1 - probs[0, 1:]
    return check_game(probs, "condorcet")


def from_file(path: str) -> Array:
    """Measured preferences: the array `P`, [N, N] or [B, N, N] for B games, of an .npz file.

    Raises:
        DataError: the file is missing or damaged, has no `P`, or `P` is not a preference game.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: there is no such file; expected an .npz file with an array P [N, N] or [B, N, N]")
    try:
        names, probs = _read_npz(file)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as an .npz file of plain numbers ({error})") from error
    if probs is None:
        raise DataError(f"{path}: has no array P, only {', '.join(names) or 'nothing'}; save it as np.savez(path, P=P)")
    if probs.ndim > 3:
        raise DataError(f"{path}: P must be [N, N] or [B, N, N], got shape {list(probs.shape)}")
    return check_game(probs, f"{path}: P")


def _read_npz(file: Path) -> tuple[list[str], Array | None]:
    """The names of all arrays, and P."""
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return ["one array without a name"], None
    with loaded:
        return loaded.files, loaded.get("P")


def _count(n: int) -> int:
    if n < 1:
        raise ConfigError(f"n, the number of responses of a game, must be at least 1, got {n}")
    return n
