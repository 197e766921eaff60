"""The run's prompts: which are trained on, which are held out, and what the policy sees of them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io.chat import check_prompt_lengths
from sppo_lightning.io.prompts import read_prompts
from sppo_lightning.types import Prompt


@dataclass(frozen=True, kw_only=True)
class PromptSplit:
    """Prompts in the run's own order, which is by a hash of seed and id.

    By hash rather than by position in the file: m prompts more or less move at most m others (and a tenth of m, where
    the number held out is a share) from one side to the other.

    Attributes:
        held_out: evaluated on, never trained on.
        train: the others; at least one.
        token_ids: prompt id -> the prompt as the policy sees it.
    """

    held_out: Sequence[Prompt]
    train: Sequence[Prompt]
    token_ids: Mapping[str, list[int]]

    @classmethod
    def read(
        cls, source: str, tokenizer: Any, *, seed: int, num_held_out: int | None, max_prompt_tokens: int
    ) -> PromptSplit:
        """Reads, checks and splits.

        Args:
            source: see `io.prompts.read_prompts`.
            tokenizer: the policy's.
            seed: the run's.
            num_held_out: None: a tenth, at least 8. Never more than half, which is said.
            max_prompt_tokens: a longer prompt is an error.

        Raises:
            DataError: a prompt that cannot be used; names file and line.
            ConfigError: a single prompt cannot be both trained on and held out.
        """
        prompts = read_prompts(source)
        token_ids = check_prompt_lengths(prompts, tokenizer, max_prompt_tokens)
        by_id = {prompt.prompt_id: ids for prompt, ids in zip(prompts, token_ids, strict=True)}
        prompts.sort(key=lambda prompt: derive_seed(seed, "order", prompt.prompt_id))
        if num_held_out is None:
            num_held_out = max(8, len(prompts) // 10)
        if num_held_out > 0 and len(prompts) < 2:
            raise ConfigError(
                f"data.prompts: {source} has {len(prompts)} prompts, too few to train on some and hold out others for "
                "evaluation. Give more prompts, or set data.held_out 0"
            )
        if num_held_out > len(prompts) // 2:
            warnings.warn(
                f"data.held_out: half of the {len(prompts)} prompts of {source} are held out for evaluation instead of "
                f"{num_held_out}, so that the others can be trained on",
                stacklevel=2,
            )
            num_held_out = len(prompts) // 2
        return cls(held_out=prompts[:num_held_out], train=prompts[num_held_out:], token_ids=by_id)

    @property
    def digest(self) -> str:
        """The SHA-256 of all prompts in order."""
        content = [[prompt.prompt_id, list(prompt.messages)] for prompt in [*self.train, *self.held_out]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def of_round(self, round_index: int, size: int | None) -> list[Prompt]:
        """A round's training prompts: all (if `size` is None or more), or the next `size`, round and round."""
        total = len(self.train)
        size = min(size or total, total)
        return [self.train[(round_index * size + offset) % total] for offset in range(size)]

    def tokens(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The token ids of these prompts."""
        return [self.token_ids[prompt.prompt_id] for prompt in prompts]
