"""Loading a policy, writing one, and handing one to a round."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.packed_attention import enable_packed_attention
from sppo_lightning.functional.precision import compute_dtype, compute_in
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.chat import pin_template_arguments
from sppo_lightning.io.files import atomic_folder, link_tree

MIXED = "bfloat16-mixed"


def load_tokenizer(
    source: str, trust_remote_code: bool = False, template_arguments: Mapping[str, bool | int | str] | None = None
) -> Any:
    """The tokenizer of a Hugging Face folder or hub id, with a pad token.

    Args:
        source: where it lies.
        trust_remote_code: run code that comes with it.
        template_arguments: see `io.chat.pin_template_arguments`.

    Raises:
        ConfigError: there is none to be read, or its chat template does not read one of the arguments.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(source), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ConfigError(_unreadable(source, "tokenizer", error)) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    pin_template_arguments(tokenizer, template_arguments or {})
    return tokenizer


def load_policy(source: str, dtype: torch.dtype | str = torch.float32, trust_remote_code: bool = False) -> nn.Module:
    """A causal language model without dropout, on the CPU. Only safetensors are read, never a pickle.

    Dropout would make the log-ratio to the frozen policy non-zero at the first step; the papers' trainers all switch it
    off, too.

    Args:
        source: a Hugging Face folder or hub id.
        dtype: of the weights; or `MIXED`: float32 weights, forward passes under bfloat16 autocast.
        trust_remote_code: run Python code that comes with the files.

    Raises:
        ConfigError: the folder or hub id holds no causal language model that can be read.
    """
    mixed = dtype == MIXED
    try:
        config = AutoConfig.from_pretrained(resolve(source), trust_remote_code=trust_remote_code)
        for part in (config, config.get_text_config()):  # a multimodal model nests its language model's
            for name, value in vars(part).items():
                if "drop" in name and isinstance(value, float):
                    setattr(part, name, 0.0)
        model = AutoModelForCausalLM.from_pretrained(
            resolve(source),
            config=config,
            dtype=torch.float32 if mixed else dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:
        raise ConfigError(_unreadable(source, "model", error)) from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    # From here on rather than when it is first trained: attention is the same wherever the policy is used.
    with contextlib.suppress(ValueError):
        enable_packed_attention(model)
    return compute_in(model, torch.bfloat16) if mixed else model


def export_policy(model: Any, tokenizer: Any, folder: Path, beside: Mapping[str, Path] | None = None) -> None:
    """Writes a Hugging Face folder, complete or not at all; an export that is there already is kept.

    It is the same weights whenever it is written, because training from a stored round is deterministic.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        folder: where it goes.
        beside: other policies of the round, name -> folder; they become subfolders.
    """
    if folder.is_dir():
        return
    with atomic_folder(folder, kind="export") as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name, source in (beside or {}).items():
            link_tree(source, temporary / name)


class LivePolicy:
    """The policy in training, as `types.PolicyHandle`."""

    def __init__(self, name: str, folder: str, model: nn.Module, tokenizer: Any) -> None:
        self.name, self.folder, self.model, self.tokenizer = name, folder, model, tokenizer

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return compute_dtype(self.model) or next(self.model.parameters()).dtype


class StoredPolicy:
    """A policy on disk, as `types.PolicyHandle`; its weights are loaded on first use and dropped by `close`."""

    def __init__(
        self,
        name: str,
        folder: str,
        tokenizer: Any,
        dtype: torch.dtype | str,
        device: torch.device,
        trust_remote_code: bool = False,
    ) -> None:
        self.name, self.folder, self.tokenizer = name, folder, tokenizer
        self._load_as = dtype
        self.dtype = torch.bfloat16 if isinstance(dtype, str) else dtype  # of the arithmetic
        self._device, self._trust_remote_code = device, trust_remote_code
        self._model: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """The weights, in eval mode."""
        if self._model is None:
            self._model = load_policy(self.folder, self._load_as, self._trust_remote_code).to(self._device).eval()
        return self._model

    def close(self) -> None:
        """Frees the weights."""
        self._model = None


def _unreadable(source: str, what: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"model.policy: no {what} can be read from {source!r} ({reason}). Give a folder written by save_pretrained "
        "(config.json, safetensors weights, tokenizer), or a hub id"
    )
