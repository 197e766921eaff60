"""A run folder as plain data. A run that was stopped, or made by an older version, has less in it and is read, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sppo_lightning.errors import DataError, RunFolderError, SPPOError
from sppo_lightning.evaluation.mixture import MIXTURE_FILE, Mixture
from sppo_lightning.evaluation.responses import HELD_OUT, stored_responses
from sppo_lightning.io.files import read_json
from sppo_lightning.io.tables import read_table

TOKEN_RATIOS = "token_ratios.json"
"""Where `TokenRatios` keeps sample responses with a log-ratio for each token."""
NUM_EXAMPLES = 6
"""Held-out prompts whose answers are shown."""
_ALL_THE_WEIGHT = 1 - 1e-6  # what the others have beside this is rounding


@dataclass(frozen=True, kw_only=True)
class Example:
    """One held-out prompt and what every policy answered: policy name -> text, oldest first."""

    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a page shows of one run.

    Attributes:
        path: the run folder.
        settings: dotted key -> value of the run's config.yaml.
        metrics: name -> round -> value, from the json files under `eval/round_003/`.
        examples: answers to a few held-out prompts.
        token_ratios: round -> sample responses with a log-ratio for each token, as `TokenRatios` writes them.
        mixture: `exports/mixture.json`: `members` (policy -> weight), `weighting`, `reason`.
        payoff: the newest `evaluation.head_to_head.HeadToHead` as a dictionary: `names`, `win_rates`, ...
        unreadable: files that are damaged, in words.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    token_ratios: Mapping[int, list[dict[str, Any]]] = field(default_factory=dict)
    mixture: Mapping[str, Any] = field(default_factory=dict)
    payoff: Mapping[str, Any] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def rounds(self) -> list[int]:
        """The rounds that something was measured of."""
        return sorted({index for values in self.metrics.values() for index in values})

    def last(self, name: str) -> float | None:
        """A metric's value in the newest round that has it."""
        values = self.metrics.get(name)
        return values[max(values)] if values else None

    @property
    def alone(self) -> str | None:
        """The policy with all of the mixture's weight, if there is one."""
        weights = self.mixture.get("members", {})
        return next((name for name, weight in weights.items() if weight > _ALL_THE_WEIGHT), None)


def read_run(path: str | Path) -> RunRecord:
    """Reads what a run folder has.

    Args:
        path: the run folder; it may be in use.

    Raises:
        DataError: it is not a run folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder. Give a run folder, such as runs/quickstart")
    if not any((path / name).exists() for name in ("config.yaml", "eval", "rounds")):
        raise DataError(
            f"{path}: is not a run folder: it has neither config.yaml nor eval/ nor rounds/. Give what the run was "
            "started with as trainer.default_root_dir"
        )
    return _Reader(path).read()


class _Reader:
    """Reads a run folder, noting what cannot be read instead of giving up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unreadable: list[str] = []

    def read(self) -> RunRecord:
        metrics: dict[str, dict[int, float]] = {}
        token_ratios: dict[int, list[dict[str, Any]]] = {}
        payoff: dict[str, Any] = {}
        for folder in sorted(self._path.glob("eval/round_???")):
            index = int(folder.name.removeprefix("round_"))
            for file in sorted(folder.glob("*.json")):
                content = self._try(file, read_json, {})
                if file.name == TOKEN_RATIOS and isinstance(content, list):
                    token_ratios[index] = content
                if isinstance(content, dict) and {"names", "win_rates"} <= content.keys():
                    payoff = content
                for name, value in [*_metrics(content), *_metrics(_within(content))]:
                    metrics.setdefault(name, {})[index] = value
        return RunRecord(
            path=self._path,
            settings=self._settings(),
            metrics=metrics,
            examples=self._examples(),
            token_ratios=token_ratios,
            mixture=self._try(self._path / "exports" / MIXTURE_FILE, _read_mixture, {}),
            payoff=payoff,
            unreadable=tuple(self._unreadable),
        )

    def _try(self, file: Path, read: Callable[[Path], Any], otherwise: Any) -> Any:
        """What a file or folder holds; a missing one is no news, a damaged one is noted."""
        if not file.exists():
            return otherwise
        try:
            return read(file)
        except SPPOError as error:
            self._unreadable.append(str(error))
            return otherwise

    def _settings(self) -> dict[str, Any]:
        return dict(_flat(self._try(self._path / "config.yaml", _read_yaml, {})))

    def _examples(self) -> tuple[Example, ...]:
        """The first answer of every policy to a few held-out prompts that all of them answered."""
        answers: dict[str, dict[str, str]] = {}
        for folder in [self._path / "eval" / "start", *sorted(self._path.glob("eval/round_???"))]:
            rows = self._try(folder, lambda place: stored_responses(place, num_samples=1).to_pylist(), [])
            if rows:
                answers[folder.name] = {row["prompt_id"]: row["text"] for row in rows}
        prompts: dict[str, str] = {}
        for file in sorted(self._path.glob(f"eval/prompt_sets/{HELD_OUT}-*.parquet")):
            rows = self._try(file, lambda file: read_table(file).to_pylist(), [])
            prompts |= {row["prompt_id"]: row["messages"][-1]["content"] for row in rows}
        shared = set.intersection(*(set(texts) for texts in answers.values())) if answers else set()
        return tuple(
            Example(
                prompt=prompts.get(prompt_id, prompt_id),
                answers={policy: texts[prompt_id] for policy, texts in answers.items()},
            )
            for prompt_id in sorted(shared)[:NUM_EXAMPLES]
        )


def _metrics(content: Any) -> list[tuple[str, float]]:
    """The metrics among a json file's entries: names with a prefix, finite numbers."""
    if not isinstance(content, dict):
        return []
    return [
        (name, float(value))
        for name, value in content.items()
        if "/" in name and isinstance(value, int | float) and math.isfinite(value)
    ]


def _within(content: Any) -> Any:
    """The metrics of a file that holds more than those."""
    return content.get("metrics") if isinstance(content, dict) else None


def _read_mixture(file: Path) -> dict[str, Any]:
    mixture = Mixture.read(file)
    # Its folders come back as they can be opened from here; a page calls the run's own policies by their names.
    own = file.parent.resolve()
    members = {
        Path(member).name if Path(member).resolve().parent == own else member: weight
        for member, weight in mixture.members.items()
    }
    return {"members": members, "weighting": mixture.weighting, "reason": mixture.reason}


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{file}: is damaged, it is not YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted key -> value; `init_args` leave no trace, a class stands under its own key."""
    if not isinstance(settings, dict):
        return [(prefix, settings)]
    found = []
    for key, value in settings.items():
        name = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}" if prefix else str(key)
        found += _flat(value, name)
    return found
