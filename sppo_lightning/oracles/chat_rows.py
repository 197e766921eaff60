"""What a judge of single responses reads: a conversation with the response, by the judge's own chat template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.types import Message, Prompt


@dataclass(frozen=True, kw_only=True)
class ChatRow:
    """Token ids of a conversation, which segment each is in, and the last of them that belongs to the prompt.

    `has_response` is False where the prompt alone is too long, so that all of the response was cut away.
    Encoders such as BERT tell a prompt from a response by the segment, `token_type_ids`; all are 0 where the tokenizer
    knows none.
    """

    ids: list[int]
    segments: list[int]
    prompt_end: int
    has_response: bool = True


class ChatRows:
    """Renders conversations by a tokenizer's chat template; without one, prompt and response as a pair of texts.

    What reads like one of the tokenizer's control tokens in a prompt or a response is replaced by a space: a response
    must not be able to end its turn and go on as somebody else. A conversation that is too long loses the end of the
    response, but not the token that ends it, which judges read their answer from.

    Args:
        tokenizer: the judge's.
        judge: named in errors.
        max_tokens: a longer conversation is cut.
        needs_prompt_end: `ChatRow.prompt_end` is wanted, so that the template must write a prompt as it writes it
            before a response.
    """

    def __init__(self, tokenizer: Any, judge: str, max_tokens: int, needs_prompt_end: bool = False) -> None:
        self._tokenizer, self._judge, self._max_tokens = tokenizer, judge, max_tokens
        self._needs_prompt_end = needs_prompt_end
        self._is_chat = tokenizer.chat_template is not None
        if needs_prompt_end and not self._is_chat:
            raise ConfigError(f"{judge}: the tokenizer of this model has no chat template, which this judge needs")
        # Padding is masked, or behind the last token of a causal model: any id of the vocabulary will do there.
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        controls = sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._controls = re.compile("|".join(map(re.escape, controls)) or "(?!)")

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuses prompts that the chat template cannot render, such as a system message where it knows none.

        Raises:
            OracleError: names the prompt.
        """
        for prompt in prompts:
            if self._is_chat:
                self._render(prompt, ["an answer"])

    def rows(self, items: Sequence[tuple[Prompt, str]]) -> tuple[list[ChatRow], int]:
        """Tokenises responses to prompts.

        Returns:
            The rows, and how many of them were cut.
        """
        read = self._tokenized(items)
        whole = read["input_ids"]
        segments = read.get("token_type_ids") or [[0] * len(ids) for ids in whole]
        ends = self._prompt_ends(items, whole) if self._needs_prompt_end else [0] * len(items)
        long = [number for number, ids in enumerate(whole) if len(ids) > self._max_tokens]
        lost = self._without_response(items, whole, long)
        rows = [
            ChatRow(
                ids=self._cut(ids),
                segments=self._cut(types),
                prompt_end=min(end, self._max_tokens - 1),
                has_response=number not in lost,
            )
            for number, (ids, types, end) in enumerate(zip(whole, segments, ends, strict=True))
        ]
        return rows, len(long)

    def _tokenized(self, items: Sequence[tuple[Prompt, str]]) -> Any:
        if self._is_chat:
            texts = [self._render(prompt, [response]) for prompt, response in items]
            return self._tokenizer(texts, add_special_tokens=False, verbose=False)
        asked = [self._clean("\n\n".join(message["content"] for message in prompt.messages)) for prompt, _ in items]
        return self._tokenizer(asked, [self._clean(response) for _, response in items], verbose=False)

    def _without_response(
        self, items: Sequence[tuple[Prompt, str]], whole: Sequence[Sequence[int]], long: Sequence[int]
    ) -> set[int]:
        """Those of the long rows that begin, as far as they are kept, like a row with an empty response."""
        if not long:
            return set()
        empty = self._tokenized([(items[number][0], "") for number in long])["input_ids"]
        kept = self._max_tokens - 1
        return {
            number for number, ids in zip(long, empty, strict=True) if list(ids[:kept]) == list(whole[number][:kept])
        }

    def _cut(self, ids: list[int]) -> list[int]:
        return ids if len(ids) <= self._max_tokens else [*ids[: self._max_tokens - 1], ids[-1]]

    def _prompt_ends(self, items: Sequence[tuple[Prompt, str]], whole: Sequence[Sequence[int]]) -> list[int]:
        prompts = {prompt.prompt_id: prompt for prompt, _ in items}
        rendered = [self._render(prompt, []) for prompt in prompts.values()]
        alone = dict(zip(prompts, self._tokenizer(rendered, add_special_tokens=False)["input_ids"], strict=True))
        for (prompt, _), ids in zip(items, whole, strict=True):
            own = alone[prompt.prompt_id]
            if list(ids[: len(own)]) != own:
                raise OracleError(
                    f"{self._judge}: its chat template writes prompt {prompt.prompt_id} differently alone than before "
                    "a response, so that the end of the prompt cannot be found"
                )
        return [len(alone[prompt.prompt_id]) - 1 for prompt, _ in items]

    def _render(self, prompt: Prompt, responses: Sequence[str]) -> str:
        answers = [Message(role="assistant", content=text) for text in responses]
        messages = [*prompt.messages, *answers]
        clean = [{**message, "content": self._clean(message["content"])} for message in messages]
        try:
            return self._tokenizer.apply_chat_template(clean, tokenize=False)
        except Exception as error:  # a template raises what it likes
            roles = ", ".join(message["role"] for message in messages)
            raise OracleError(
                f"{self._judge}: its chat template refuses the conversation of prompt {prompt.prompt_id} ({roles}): "
                f"{error}"
            ) from error

    def _clean(self, text: str) -> str:
        return self._controls.sub(" ", text)
