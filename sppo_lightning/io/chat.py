"""From a prompt's messages to the token ids that the policy sees.

The tokenizer's own chat template decides everything: markers, the begin token, and what text that looks like a special
token becomes. Nothing is added here and nothing escaped.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import TemplateError

from sppo_lightning.errors import ConfigError, DataError
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


def pin_template_arguments(tokenizer: Any, arguments: Mapping[str, bool | int | str]) -> None:
    """Fixes arguments of the chat template, such as Qwen3's `enable_thinking`, in the template itself.

    Whoever loads the tokenizer, from an export too, then builds the same prompts as training did.

    Args:
        tokenizer: changed in place.
        arguments: name -> value.

    Raises:
        ConfigError: there is no chat template, or it does not read an argument of that name.
    """
    template = tokenizer.chat_template or ""
    pins = ""
    for name, value in arguments.items():
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ConfigError(
                f"model.chat_template_arguments: the chat template of {_name(tokenizer)} does not read {name}; remove "
                "it"
            )
        pins += f"{{% set {name} = {json.dumps(value)} %}}"  # JSON's literals are Jinja's, too
    if not template.startswith(pins):
        tokenizer.chat_template = pins + template


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
