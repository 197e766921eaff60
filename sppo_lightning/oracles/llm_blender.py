"""The real llm-blender package as an oracle, for parity."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.judge_model import choose_device, release_memory
from sppo_lightning.oracles.pair_logits import Aggregation, PairLogitOracle
from sppo_lightning.oracles.pairrm_model import PairRMCheckpoint
from sppo_lightning.oracles.pairrm_text import candidate_text, source_text
from sppo_lightning.oracles.pairwise import Pair
from sppo_lightning.types import Prompt


class LLMBlender(PairLogitOracle):
    """PairRM run by the real llm-blender 0.0.2 (extra `judge`), one pair at a time: the yardstick of `PairRM`.

    Use `PairRM`, which gives the same numbers in batches of similar length. Its checkpoint is llm-blender's own layout.

    Args:
        model: a folder or hub id such as llm-blender/PairRM.
        aggregation: pairwise keeps cycles; bradley_terry reproduces the official SPPO scripts, which erase them.
        batch_size: pairs at a time. Above 1 llm-blender cuts a response by the lengths of its neighbours in the batch.
        device: auto is the GPU if there is one.

    Raises:
        ConfigError: `batch_size` is below 1, or the package is not installed.
    """

    not_deciding = frozenset({"device"})

    def __init__(
        self,
        model: str = "llm-blender/PairRM",
        aggregation: Aggregation = "pairwise",
        batch_size: int = 1,
        device: str = "auto",
    ) -> None:
        super().__init__(aggregation)
        if batch_size < 1:
            raise ConfigError(f"LLMBlender: batch_size must be at least 1, got {batch_size}")
        if importlib.util.find_spec("llm_blender") is None:
            raise ConfigError(
                "LLMBlender needs the package llm-blender: install the extra `judge` (uv sync --extra judge), or use "
                "PairRM, which gives the same numbers without it"
            )
        self.model, self.batch_size, self.device = model, batch_size, device
        self._blender: Any = None

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Reads configuration and tokenizer, looks for the weights, and reads none of them.

        Raises:
            ConfigError: the model is not there, is not a PairRM, or is a pickle.
        """
        choose_device(self.device)
        PairRMCheckpoint(self.model).check()

    def logits(self, pairs: Sequence[Pair]) -> Tensor:
        """L(first, second) of each pair, in nats, by `Blender.compare(mode="[A,B]")`."""
        if not pairs:
            return torch.zeros(0)
        if self._blender is None:
            self._blender = self._load()
        with _batch_encode_plus(), _current(choose_device(self.device)):
            answers = self._blender.compare(
                [source_text(pair.prompt) for pair in pairs],
                [candidate_text(pair.prompt, pair.first) for pair in pairs],
                [candidate_text(pair.prompt, pair.second) for pair in pairs],
                batch_size=self.batch_size,
                return_logits=True,
                mode="[A,B]",
                disable_tqdm=True,
            )
        return torch.from_numpy(answers)

    def close(self) -> None:
        """Frees the ranker."""
        self._blender = None
        release_memory()

    def _load(self) -> Any:
        self.check_prompts(())
        llm_blender = _import()
        logging.disable(logging.WARNING)  # two warnings that no ranker was loaded, which is the next line
        try:
            blender = llm_blender.Blender(blender_config=llm_blender.BlenderConfig(use_tqdm=False))
        finally:
            logging.disable(logging.NOTSET)
        device = choose_device(self.device)
        # It prints where the weights come from.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), _current(device):
            warnings.simplefilter("ignore", RuntimeWarning)  # of each setting that the checkpoint leaves out
            blender.loadranker(str(PairRMCheckpoint(self.model).folder()), device=device.type)
        return blender


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes it the GPU that "cuda" means: llm-blender takes its half precision on "cuda" alone, not on "cuda:1"."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _import() -> Any:
    """Imports llm-blender, which fails on transformers 5 without a constant that is gone, and imports vLLM if it can.

    Both changes last for the import alone.
    """
    if "llm_blender" in sys.modules:
        return sys.modules["llm_blender"]
    from huggingface_hub.constants import HF_HUB_CACHE
    from transformers.utils import hub

    absent = object()
    vllm = sys.modules.get("vllm", absent)
    hub.TRANSFORMERS_CACHE = HF_HUB_CACHE  # type: ignore[attr-defined]
    if vllm is absent:
        sys.modules["vllm"] = None  # type: ignore[assignment] # reads as not installed: seconds, and a log of its own
    try:
        return importlib.import_module("llm_blender")
    finally:
        del hub.TRANSFORMERS_CACHE  # type: ignore[attr-defined]
        if vllm is absent:
            del sys.modules["vllm"]


@contextlib.contextmanager
def _batch_encode_plus() -> Iterator[None]:
    """The tokenizers' method that transformers 5 dropped and llm-blender calls; calling the tokenizer is the same."""
    from transformers import PreTrainedTokenizerBase

    PreTrainedTokenizerBase.batch_encode_plus = PreTrainedTokenizerBase.__call__  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del PreTrainedTokenizerBase.batch_encode_plus  # type: ignore[attr-defined]
