"""PairRM without llm-blender: the same numbers as at its batch size 1, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.judge_model import (
    Dtype,
    check_weights_finite,
    choose_batch_tokens,
    choose_device,
    choose_dtype,
    deciding_dtype,
    in_batches,
    release_memory,
)
from sppo_lightning.oracles.pair_logits import Aggregation, PairLogitOracle
from sppo_lightning.oracles.pairrm_model import PairRMCheckpoint
from sppo_lightning.oracles.pairrm_text import PairRMTokens, candidate_text, source_text
from sppo_lightning.oracles.pairwise import Pair
from sppo_lightning.types import Prompt


class PairRM(PairLogitOracle):
    """PairRM (LLM-Blender, arXiv 2306.02561), a 0.4B DeBERTa that reads a prompt and two responses; runs natively.

    Reads the layout of the hub's llm-blender/PairRM-hf and llm-blender's own (llm-blender/PairRM); only safetensors.
    Equals the real package at batch size 1, where truncation does not depend on the other rows of a batch. What reads
    like one of PairRM's own marks (`<|candidate1|>`, `[SEP]`) in a prompt or a response is replaced by a space.

    Args:
        model: a Hugging Face folder or hub id.
        aggregation: pairwise keeps cycles; bradley_terry reproduces the official SPPO scripts, which erase them.
        max_source_tokens: a longer prompt is cut. Not set: what the checkpoint says, 1224 for the published ones.
        max_candidate_tokens: a longer response is cut, unless the prompt leaves room: half of what it does not use of
            max_source_tokens is added. Not set: what the checkpoint says, 412 for the published ones.
        batch_tokens: rows of a batch times its longest row; memory grows with it. Not set: 16384 on a GPU, 2048 on a
            CPU.
        dtype: precision; auto is bfloat16 on a GPU and float32 on a CPU.
        device: auto is the GPU if there is one.

    Raises:
        ConfigError: a limit that is too small, or an unknown name.
    """

    not_deciding = frozenset({"batch_tokens", "device"})

    def __init__(
        self,
        model: str = "llm-blender/PairRM-hf",
        aggregation: Aggregation = "pairwise",
        max_source_tokens: int | None = None,
        max_candidate_tokens: int | None = None,
        batch_tokens: int | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
    ) -> None:
        super().__init__(aggregation)
        for name, value, least in (
            ("max_source_tokens", max_source_tokens, 3),  # begin, mark, end
            ("max_candidate_tokens", max_candidate_tokens, 3),
            ("batch_tokens", batch_tokens, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"PairRM: {name} must be at least {least}, got {value}")
        self.model = model
        self.max_source_tokens, self.max_candidate_tokens = max_source_tokens, max_candidate_tokens
        self.batch_tokens, self.dtype, self.device = batch_tokens, dtype, device
        self._checkpoint = PairRMCheckpoint(model)
        self._tokens: Any = None
        self._network: Any = None

    @property
    def decides(self) -> dict[str, str]:
        """The precision that "auto" comes to; see `identity`."""
        return deciding_dtype(self.dtype, self.device)

    def _count_anew(self) -> None:
        super()._count_anew()
        self._num_rows = self._num_cut = 0

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Reads configuration and tokenizer, looks for the weights, and reads none of them.

        Raises:
            ConfigError: the model is not there, is not a PairRM, or is a pickle.
        """
        choose_dtype(self.dtype, choose_device(self.device))
        self._checkpoint.check()

    def logits(self, pairs: Sequence[Pair]) -> Tensor:
        """L(first, second) of each pair, in nats."""
        if not pairs:
            return torch.zeros(0)
        self._open()
        rows, num_cut = self._tokens.rows(
            [
                (
                    source_text(pair.prompt),
                    candidate_text(pair.prompt, pair.first),
                    candidate_text(pair.prompt, pair.second),
                )
                for pair in pairs
            ]
        )
        self._num_rows += len(rows)
        self._num_cut += num_cut
        device = next(self._network.parameters()).device
        marks_R3 = torch.tensor([row.marks for row in rows])
        return in_batches(
            [row.ids for row in rows],
            lambda ids_RT, mask_RT, indices: self._network(ids_RT, mask_RT, marks_R3[indices].to(device)),
            batch_tokens=choose_batch_tokens(self.batch_tokens, device),
            pad_id=self._tokens.pad_id,
            device=device,
        )

    def measured(self) -> dict[str, float]:
        """Beside what every judge of pairs measures: `cut_share`, the share of pairs of which a text was cut."""
        return super().measured() | ({"cut_share": self._num_cut / self._num_rows} if self._num_rows else {})

    def close(self) -> None:
        """Frees the network."""
        self._network = self._tokens = None
        release_memory()

    def _open(self) -> None:
        if self._network is not None:
            return
        device = choose_device(self.device)
        source, candidate = self._checkpoint.limits()
        tokenizer = self._checkpoint.tokenizer()
        self._tokens = PairRMTokens(tokenizer, self.max_source_tokens or source, self.max_candidate_tokens or candidate)
        network = self._checkpoint.load(choose_dtype(self.dtype, device), len(tokenizer))
        check_weights_finite(network, "PairRM", self.model)
        self._network = network.to(device).eval()
