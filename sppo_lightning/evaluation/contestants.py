"""Whoever can be measured: one policy or a mixture of them, by a name that a person types."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.evaluation.mixture import MIXTURE_FILE, Mixture
from sppo_lightning.io.assets import SCHEME, resolve
from sppo_lightning.io.files import sha256_of
from sppo_lightning.io.sealed import read_sealed_json

START = "start"
_ROUND = re.compile(r"round_\d{3,}(/player_\d+)?")
_EXPORT = re.compile(r"average_\d{3,}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_START_KEY = "model.init_args.policy"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One set of weights.

    Attributes:
        name: names its files and seeds: "start" and "round_003" within a run; a policy from elsewhere carries the hash
            of its weights, so that no other can take its place under the same name.
        source: a folder, a hub id or a `package:` name.
    """

    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One player of a match: a policy, or a mixture that draws one of its policies for each response.

    Example:
        `Contestant.of("round_003", Member(name="round_003", source="runs/quickstart/exports/round_003"))`

    Attributes:
        name: how tables call it: a policy's own; "mixture" for the run's, and for any other the stem of its file with
            eight digits of what it draws.
        members: its policies with their weights, which add up to 1.
    """

    name: str
    members: tuple[tuple[Member, float], ...]

    @classmethod
    def of(cls, member: Member) -> Contestant:
        """A single policy."""
        return cls(name=member.name, members=((member, 1.0),))

    def draws_as(self, other: Contestant) -> bool:
        """Whether both draw the same policies with the same probabilities, by whatever paths they were given."""
        return _drawn(self) == _drawn(other)


def read_contestant(text: str, run_folder: str | Path | None = None, start: str | None = None) -> Contestant:
    """Finds who is meant.

    Args:
        text: `start`, `round_003`, `average_003` or `mixture` of the run; a policy's folder, a hub id, a `package:`
            name, or a `mixture.json`.
        run_folder: the run; None where there is none.
        start: the run's start policy; None reads it from the run folder.

    Raises:
        ConfigError: nothing is called that; names what there is.
        DataError: a `mixture.json` that is none.
        RunFolderError: a file of the run is damaged.
    """
    run = Path(run_folder) if run_folder is not None else None
    if run is not None:
        if text == START:
            return Contestant.of(Member(name=START, source=start or start_of(run)))
        if text == "mixture":
            return _of_mixture(run / "exports" / MIXTURE_FILE, run, start)
        if _ROUND.fullmatch(text) or (_EXPORT.fullmatch(text) and (run / "exports" / text).is_dir()):
            return Contestant.of(Member(name=text.replace("/", "_"), source=str(_export(run, text))))
    if text.endswith(".json"):
        return _of_mixture(Path(text), run, start)
    return Contestant.of(member_of(text, run, start))


def mixture_contestant(
    mixture: Mixture, run_folder: str | Path | None = None, start: str | None = None, name: str = "mixture"
) -> Contestant:
    """A mixture as a contestant; members of weight 0 are left out.

    Args:
        mixture: folders or hub ids with weights.
        run_folder: see `read_contestant`.
        start: see `read_contestant`.
        name: how tables call it.

    Raises:
        ConfigError: a member does not exist.
    """
    run = Path(run_folder) if run_folder is not None else None
    drawn = {source: weight for source, weight in mixture.members.items() if weight > 0}
    return Contestant(
        name=name, members=tuple((member_of(source, run, start), weight) for source, weight in drawn.items())
    )


def member_of(source: str, run: Path | None = None, start: str | None = None) -> Member:
    """A policy by its folder, hub id or `package:` name; one of the run's own keeps the name it has there.

    Raises:
        ConfigError: there is no such folder, and it is no hub id either.
    """
    place = resolve(source)
    if run is not None:
        own_start = start or start_of(run, missing="")
        if own_start and _same(source, own_start):
            return Member(name=START, source=source)
        exports = (run / "exports").resolve()
        folder = Path(place).resolve()
        if folder.is_dir() and folder.is_relative_to(exports) and folder != exports:
            return Member(name=folder.relative_to(exports).as_posix().replace("/", "_"), source=source)
    if Path(place).is_dir():
        return Member(name=f"{_slug(Path(place).resolve().name)}-{_fingerprint(Path(place).resolve())}", source=source)
    if not source.startswith(SCHEME) and _HUB_ID.fullmatch(source) and not source.startswith("."):
        return Member(name=f"{_slug(source)}-{hashlib.sha256(source.encode()).hexdigest()[:8]}", source=source)
    raise ConfigError(
        f"there is no policy {source!r}: give start, round_003 or mixture (of a run), the folder of a policy, a hub id "
        f"(owner/name), or a mixture.json{_has(run)}"
    )


def start_of(run: Path, missing: str | None = None) -> str:
    """The start policy of a run, from its run.json.

    Args:
        run: the run folder.
        missing: what to return where the run does not say; None raises.

    Raises:
        ConfigError: the run does not say.
        RunFolderError: run.json is damaged.
    """
    path = run / "run.json"
    config = read_sealed_json(path).get("config", {}) if path.is_file() else {}
    if _START_KEY in config:
        return str(config[_START_KEY])
    if missing is not None:
        return missing
    raise ConfigError(
        f"{path} does not say what the run started from; give the start policy's folder or hub id instead"
    )


def _of_mixture(path: Path, run: Path | None, start: str | None) -> Contestant:
    """The run's own is "mixture"; any other carries digits of what it draws, since files of one name may differ."""
    if not path.is_file():
        raise ConfigError(f"there is no mixture {path}: a run writes it after each round{_has(run)}")
    found = mixture_contestant(Mixture.read(path), run, start)
    if run is not None and path.resolve() == (run / "exports" / MIXTURE_FILE).resolve():
        return found
    content = json.dumps(_drawn(found)).encode()
    return replace(found, name=f"{_slug(path.stem)}-{hashlib.sha256(content).hexdigest()[:8]}")


def _drawn(contestant: Contestant) -> list[tuple[str, float]]:
    return sorted((member.name, weight) for member, weight in contestant.members)


def _export(run: Path, name: str) -> Path:
    folder = run / "exports" / name
    if not folder.is_dir():
        raise ConfigError(f"there is no policy {name} in {run / 'exports'}{_has(run)}")
    return folder


def _has(run: Path | None) -> str:
    if run is None:
        return ""
    found = sorted(path.name for path in (run / "exports").glob("round_*") if path.is_dir())
    return f"; {run} has start{', ' if found else ''}{', '.join(found)}"


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    a, b = Path(resolve(one)), Path(resolve(other))
    return a.is_dir() and b.is_dir() and a.resolve() == b.resolve()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "policy"


@cache
def _fingerprint(folder: Path) -> str:
    """Eight digits of the hash of everything that decides what a folder answers."""
    digest = hashlib.sha256()
    for path in _policy_files(folder):
        digest.update(f"{path.name}\0{sha256_of(path)}\0".encode())
    return digest.hexdigest()[:8]


def _policy_files(folder: Path) -> Iterable[Path]:
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".safetensors", ".bin", ".json", ".jinja", ".model") and path.is_file()
    )
    if not any(path.name == "config.json" for path in files):
        raise DataError(f"{folder}: is no policy's folder: it has no config.json (save_pretrained writes one)")
    return files
