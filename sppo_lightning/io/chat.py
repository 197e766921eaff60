"""From a prompt's messages to the token ids that the policy sees.

The tokenizer's own chat template decides everything: markers, the begin token, and what text that looks like a special
token becomes. Nothing is added here and nothing escaped.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import TemplateError

from sppo_lightning.errors import DataError
from sppo_lightning.types import Prompt


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The token ids of a prompt, up to the place where the policy's answer begins.

    A tokenizer without a chat template gets the bare text of a single user turn, encoded as it encodes any text; a
    warning says so once.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt: what to encode.

    Returns:
        At least one token id, without padding.

    Raises:
        DataError: the template refuses the conversation (many refuse a system turn), there is no template for more
            than one turn, or nothing is left of the prompt. It names the prompt id.
    """
    if tokenizer.chat_template is None:
        token_ids = _encode_plain_text(tokenizer, prompt)
    else:
        try:
            encoded = tokenizer.apply_chat_template(
                list(prompt.messages), add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in prompt.messages)
            raise DataError(
                f"prompt {prompt.prompt_id}: the chat template of {_name(tokenizer)} refuses its turns ({roles}): "
                f"{error}. Change this prompt's turns in data.prompts, or the tokenizer's chat template"
            ) from error
        token_ids = encoded["input_ids"]
    if not token_ids:
        raise DataError(
            f"prompt {prompt.prompt_id}: the tokenizer {_name(tokenizer)} turns it into no tokens at all; remove it "
            "from data.prompts"
        )
    return list(token_ids)


def _encode_plain_text(tokenizer: Any, prompt: Prompt) -> list[int]:
    if len(prompt.messages) > 1:
        raise DataError(
            f"prompt {prompt.prompt_id}: has {len(prompt.messages)} turns, and the tokenizer {_name(tokenizer)} has no "
            "chat template to join them; choose a chat model as model.policy, save a chat_template.jinja beside its "
            "tokenizer, or use prompts of one user turn"
        )
    _announce_plain_text(_name(tokenizer))
    return tokenizer(prompt.text)["input_ids"]


@cache
def _announce_plain_text(name: str) -> None:
    warnings.warn(
        f"the tokenizer {name} has no chat template: every prompt is given to the policy as plain text, without any "
        "markers of turns. Right for a base model; a chat model needs its template",
        stacklevel=4,
    )


def _name(tokenizer: Any) -> str:
    return tokenizer.name_or_path or type(tokenizer).__name__


def check_prompt_lengths(prompts: Sequence[Prompt], tokenizer: Any, max_prompt_tokens: int) -> list[list[int]]:
    """Encodes every prompt once and refuses those that are too long: cutting a prompt changes the question.

    Args:
        prompts: B prompts.
        tokenizer: see `encode_prompt`.
        max_prompt_tokens: the most tokens a prompt may have, the chat template's included.

    Returns:
        [B][T] the token ids of each prompt.

    Raises:
        DataError: the number of prompts over the limit, and the first of them with its length.
    """
    token_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    over = [i for i, ids in enumerate(token_ids) if len(ids) > max_prompt_tokens]
    if over:
        raise DataError(
            f"prompt {prompts[over[0]].prompt_id}: has {len(token_ids[over[0]])} tokens, more than "
            f"data.max_prompt_tokens={max_prompt_tokens} ({len(over)} of {len(prompts)} prompts are too long, the "
            f"longest has {max(map(len, token_ids))}). Remove them from data.prompts or raise data.max_prompt_tokens"
        )
    return token_ids
