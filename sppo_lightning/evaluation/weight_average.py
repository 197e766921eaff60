"""The average of several policies' weights, as a one-model stand-in for their mixture.

Nothing promises that it plays like the mixture: the theorem averages probabilities, not weights. Near each other,
fine-tuned weights often average well (Wortsman et al., Model soups, ICML 2022); measure it before using it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sppo_lightning.errors import DataError
from sppo_lightning.evaluation.mixture import Mixture
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.files import atomic_folder
from sppo_lightning.types import Progress

_WEIGHTS = "*.safetensors"
_INDEX = "*.safetensors.index.json"


def average_weights(mixture: Mixture, folder: str | Path, progress: Progress) -> Path:
    """Writes a policy's folder whose weights are the mean of a mixture's, by the mixture's weights.

    Means are taken in float32 and stored in each tensor's own type. One tensor of every member is in memory at a time,
    and the whole average. Everything but the weights is that of the member with the most weight (the last of them).

    Args:
        mixture: its members must be folders (or `package:` names) of one architecture.
        folder: where to write; must not exist.
        progress: tells the person who waits.

    Returns:
        The folder, as `save_pretrained` would have written it.

    Raises:
        DataError: a member is no folder with safetensors weights, or its tensors are not those of the others.
        RunFolderError: `folder` exists, or the disk refused.
    """
    weights = {_folder(source): weight for source, weight in mixture.members.items() if weight > 0}
    template = max(reversed(weights), key=lambda place: weights[place])
    with ExitStack() as opened:
        tensors = {place: _Tensors(place, opened) for place in weights}
        for place, found in tensors.items():
            _check(place, found, template, tensors[template])
        bar = progress("averaging weights", len(tensors[template].files), "tensors")
        average = {}
        for name in sorted(tensors[template].files):
            total = sum(weight * tensors[place].read(name).float() for place, weight in weights.items())
            assert isinstance(total, torch.Tensor)
            average[name] = total.to(tensors[template].read(name).dtype)
            bar.update(1)
        bar.close()
    with atomic_folder(folder, kind="weight_average") as temporary:
        for path in _files_beside(template):
            shutil.copyfile(path, temporary / path.name)
        save_file(average, temporary / "model.safetensors", metadata={"format": "pt"})
    return Path(folder)


class _Tensors:
    """The tensors of a folder's safetensors files, read one by one."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.files: dict[str, Any] = {}
        for path in sorted(folder.glob(_WEIGHTS)):
            try:
                file = opened.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise DataError(f"{path}: cannot be read as safetensors ({error})") from error
            self.files |= dict.fromkeys(file.keys(), file)
        if not self.files:
            raise DataError(f"{folder}: has no safetensors weights to average")

    def read(self, name: str) -> torch.Tensor:
        return self.files[name].get_tensor(name)

    def shapes(self) -> Mapping[str, list[int]]:
        return {name: file.get_slice(name).get_shape() for name, file in self.files.items()}


def _folder(source: str) -> Path:
    folder = Path(resolve(source))
    if not folder.is_dir():
        raise DataError(
            f"{source}: is no folder; weights can only be averaged of policies on disk (huggingface_hub's "
            "snapshot_download fetches one)"
        )
    return folder


def _check(place: Path, found: _Tensors, template: Path, expected: _Tensors) -> None:
    ours, theirs = found.shapes(), expected.shapes()
    different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if different:
        raise DataError(
            f"{place}: is of another architecture than {template}: {different[0]} has shape "
            f"{ours.get(different[0], 'none')} here and {theirs.get(different[0], 'none')} there "
            f"({len(different)} such tensors)"
        )


def _files_beside(folder: Path) -> Iterator[Path]:
    """Configuration and tokenizer, without weights, their index, and the model card of one member."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.match(_WEIGHTS) and not path.match(_INDEX) and path.name != "README.md":
            yield path
