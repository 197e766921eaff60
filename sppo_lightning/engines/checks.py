"""What every engine refuses: prompts that leave no room for an answer, and policies whose weights have diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from sppo_lightning.errors import EngineError
from sppo_lightning.types import Prompt


def check_room(
    prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]], max_new_tokens: int, config: Any
) -> None:
    """Refuses prompts that leave no room for `max_new_tokens` among the model's positions.

    Args:
        prompts: B prompts.
        prompt_ids: [B][T] their tokens.
        max_new_tokens: the longest response.
        config: the policy's transformers configuration.

    Raises:
        EngineError: names the longest prompt.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return
    room = positions - max_new_tokens
    too_long = [b for b, ids in enumerate(prompt_ids) if len(ids) > room]
    if not too_long:
        return
    longest = max(too_long, key=lambda b: len(prompt_ids[b]))
    raise EngineError(
        f"Prompt {prompts[longest].prompt_id} has {len(prompt_ids[longest])} tokens; with "
        f"data.engine.max_new_tokens={max_new_tokens} that is more than the policy's {positions} positions "
        f"({len(too_long)} of {len(prompts)} prompts are too long). Lower data.engine.max_new_tokens, or remove these "
        f"prompts from data.prompts"
    )


def check_numbers(policy: str, prompts: Sequence[Prompt], logps: Iterable[tuple[int, float]]) -> None:
    """Refuses what a policy with broken weights answered.

    Args:
        policy: its name.
        prompts: B prompts.
        logps: (b, summed log-probability of a response to prompt b).

    Raises:
        EngineError: a log-probability is not a number; names the prompt.
    """
    broken = next((b for b, logp in logps if not math.isfinite(logp)), None)
    if broken is not None:
        raise EngineError(
            f"Policy {policy} answers prompt {prompts[broken].prompt_id} with logits that are not numbers: its weights "
            f"have diverged. Train its round again with a lower learning rate (model.optimizer) or a smaller "
            f"model.max_grad_norm"
        )
