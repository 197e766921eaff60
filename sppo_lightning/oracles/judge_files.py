"""The files of a judge that is a model: found, read and checked early, before anything expensive; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sppo_lightning.errors import ConfigError
from sppo_lightning.io.assets import resolve

_CONVERT = (
    'python -c "import torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in '
    "torch.load('pytorch_model.bin', weights_only=True).items()}, 'model.safetensors')\""
)
# Their first token has the position after the padding's id.
_POSITIONS_AFTER_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
)
_SMALL_FILES = ("*.json", "*.model", "*.txt", "*.jinja")


class JudgeFiles:
    """A Hugging Face folder, or a hub id whose files are fetched into the hub's cache on first use.

    Args:
        source: the folder or hub id.
        judge: who asks, named in errors.
    """

    def __init__(self, source: str, judge: str) -> None:
        self.source, self.judge = source, judge
        self._fetched: dict[bool, Path] = {}

    def folder(self, weights: bool = False) -> Path:
        """Where the files are.

        Args:
            weights: the weights are wanted, too; from the hub only the small files come otherwise.

        Raises:
            ConfigError: there is no such folder, and no such model on the hub.
        """
        path = Path(resolve(self.source)).expanduser()
        if path.is_dir():
            return path
        if weights in self._fetched:
            return self._fetched[weights]
        from huggingface_hub import snapshot_download

        wanted = [*_SMALL_FILES, "*.safetensors"] if weights else list(_SMALL_FILES)
        try:
            self._fetched[weights] = Path(snapshot_download(self.source, allow_patterns=wanted))
        except Exception as error:
            raise ConfigError(
                f"{self.judge}: {self.source} is no folder, and could not be had from the hub ({_first_line(error)}). "
                "Give a folder with config.json, the tokenizer and model.safetensors, or a hub id that can be reached"
            ) from error
        return self._fetched[weights]

    def config(self) -> dict[str, Any]:
        """What config.json says.

        Raises:
            ConfigError: it is missing, or is not JSON.
        """
        path = self.folder() / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{self.judge}: {path} is missing; a model's folder says there what it is") from error
        except (ValueError, OSError) as error:
            raise ConfigError(f"{self.judge}: {path} cannot be read as JSON ({error})") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{self.judge}: {path} must hold an object, it holds a {type(content).__name__}")
        return content

    def num_positions(self) -> int | None:
        """The longest row that the model has positions for; None where its configuration says no limit."""
        from transformers import AutoConfig

        try:
            # It knows that GPT-2 calls them n_positions.
            config = AutoConfig.from_pretrained(self.folder(), trust_remote_code=False)
        except Exception:  # a kind of model that transformers does not know: what config.json says itself
            positions, offset = self.config().get("max_position_embeddings"), 0
        else:
            positions = getattr(config, "max_position_embeddings", None)
            offset = (config.pad_token_id or 0) + 1 if config.model_type in _POSITIONS_AFTER_PADDING else 0
        return int(positions) - offset if positions and positions > 0 else None

    def tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            ConfigError: there is none to be read.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder())
        except Exception as error:
            raise ConfigError(
                f"{self.judge}: no tokenizer can be read from {self.source} ({_first_line(error)}). It needs "
                "tokenizer.json, or the files that its tokenizer_config.json names"
            ) from error

    def require(self, *names: str, fetch: bool = False) -> None:
        """Looks for the weights and for some of their tensors by name; the weights themselves are not read.

        Args:
            names: tensors that must be there.
            fetch: weights on the hub are fetched for it; otherwise only a local folder is looked into.

        Raises:
            ConfigError: the weights are missing, damaged, a pickle, or lack one of these.
        """
        if not fetch and not Path(resolve(self.source)).expanduser().is_dir():
            return
        found = self.tensor_names()
        missing = [name for name in names if name not in found]
        if missing:
            raise ConfigError(
                f"{self.judge}: the weights of {self.source} lack {', '.join(missing)}, so this is another kind of "
                f"model; they have {', '.join(sorted(found)[:3])}, ..."
            )

    def tensors(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Tensors of the checkpoint by name, on the CPU.

        Args:
            names: only those of these that are there. Not set: all.

        Raises:
            ConfigError: the weights are missing, damaged or a pickle.
        """
        wanted = None if names is None else set(names)
        found: dict[str, Tensor] = {}
        for file in self._open():
            found |= {name: file.get_tensor(name) for name in file.keys() if wanted is None or name in wanted}  # noqa: SIM118
        return found

    def tensor_names(self) -> set[str]:
        """Names of all tensors of the checkpoint; see `tensors` for errors."""
        return {name for file in self._open() for name in file.keys()}  # noqa: SIM118 - no iterator of its own

    def _open(self) -> Iterator[Any]:
        from safetensors import safe_open

        for path in self._shards(self.folder(weights=True)):
            try:
                file = safe_open(path, framework="pt")
            except Exception as error:
                raise ConfigError(
                    f"{self.judge}: {path} is damaged or not a safetensors file ({_first_line(error)}); fetch it again"
                ) from error
            with file:
                yield file

    def _shards(self, folder: Path) -> list[Path]:
        shards = sorted(folder.glob("*.safetensors"))
        if shards:
            return shards
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickles:
            raise ConfigError(
                f"{self.judge}: {self.source} has its weights only as a pickle ({', '.join(pickles)}), which could run "
                f"anybody's code and is never loaded. Convert a file that you trust, in that folder: {_CONVERT}"
            )
        raise ConfigError(f"{self.judge}: {self.source} holds no weights; expected model.safetensors in {folder}")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
