"""What PairRM reads: a prompt and two responses as one row of token ids, cut as by llm-blender at batch size 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sppo_lightning.errors import ConfigError
from sppo_lightning.types import Prompt

SOURCE, FIRST, SECOND, EITHER = MARKS = ("<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>")
"""PairRM's marks, in the order in which llm-blender adds them to the vocabulary; EITHER never reaches the model."""

# llm-blender's own words and spelling (blender_utils.get_pair_from_conv).
_CONVERSATION = (
    "Finish the following coversation in each i-th turn "  # codespell:ignore coversation
    "by filling in <Response i> with your response."
)


def source_text(prompt: Prompt) -> str:
    """The prompt as PairRM reads it: the text of a single turn, or llm-blender's format of a conversation.

    A system message stands before it, as a paragraph of its own.
    """
    system = [message["content"] for message in prompt.messages if message["role"] == "system"]
    turns = [message for message in prompt.messages if message["role"] != "system"]
    if len(turns) == 1:
        return "\n\n".join([*system, turns[0]["content"]])
    asked = [message["content"] for message in turns if message["role"] == "user"]
    conversation = "\n".join(f"USER: {text}\nAssistant: <Response {i}>" for i, text in enumerate(asked, 1))
    return "\n\n".join([*system, _CONVERSATION + conversation])


def candidate_text(prompt: Prompt, response: str) -> str:
    """A response as PairRM reads it: after a conversation's earlier answers, if there are any."""
    answered = [message["content"] for message in prompt.messages if message["role"] == "assistant"]
    if not answered:
        return response
    return "\n".join(f"<Response {i}>: {text}" for i, text in enumerate([*answered, response], 1))


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """One ordered pair: token ids, and where the marks of the source and of both candidates stand among them."""

    ids: list[int]
    marks: tuple[int, int, int]


class PairRMTokens:
    """Turns ordered pairs of texts into rows; a text is tokenised once however many pairs it is in.

    Args:
        tokenizer: knows PairRM's marks as tokens.
        max_source_tokens: a longer source is cut, its mark and both delimiters included.
        max_candidate_tokens: as long may a candidate be, plus half of what its source leaves of max_source_tokens.

    Raises:
        ConfigError: the tokenizer lacks a mark, the separator or padding.
    """

    def __init__(self, tokenizer: Any, max_source_tokens: int, max_candidate_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_source, self._max_candidate = max_source_tokens, max_candidate_tokens
        self._mark_ids = mark_ids(tokenizer)
        self.pad_id: int = tokenizer.pad_token_id

    def rows(self, pairs: Sequence[tuple[str, str, str]]) -> tuple[list[PairRow], int]:
        """Tokenises (source, first, second).

        Returns:
            The rows, and in how many of them a text was cut.
        """
        source_ids = self._encode([source for source, _, _ in pairs], SOURCE, self._max_source + 1)
        # One more than the longest that may be needed, so that a cut shows.
        longest = self._max_candidate + self._max_source // 2 + 1
        candidate_ids = self._encode([text for _, *texts in pairs for text in texts], EITHER, longest)
        _, first_id, second_id, _ = self._mark_ids
        rows, num_cut = [], 0
        for source, *texts in pairs:
            cut_source = self._cut(source_ids[source], self._max_source)
            limit = self._max_candidate + (self._max_source - len(cut_source)) // 2
            first, second = (self._cut(candidate_ids[text], limit) for text in texts)
            whole = len(source_ids[source]) + sum(len(candidate_ids[text]) for text in texts)
            ids = [*cut_source, first[0], first_id, *first[2:], second[0], second_id, *second[2:]]
            # Each part is [CLS] mark text [SEP].
            marks = (1, len(cut_source) + 1, len(cut_source) + len(first) + 1)
            rows.append(PairRow(ids=ids, marks=marks))
            num_cut += len(ids) < whole
        return rows, num_cut

    def _encode(self, texts: Sequence[str], mark: str, max_tokens: int) -> dict[str, list[int]]:
        unique = list(dict.fromkeys(texts))
        clean = [mark + self._without_marks(text) for text in unique]
        encoded = self._tokenizer(clean, truncation=True, max_length=max_tokens)["input_ids"]
        return dict(zip(unique, encoded, strict=True))

    def _without_marks(self, text: str) -> str:
        """A response must not be able to say where a response begins; llm-blender replaces the separator alike."""
        for mark in (*MARKS, self._tokenizer.sep_token):
            text = text.replace(mark, " ")
        return text

    def _cut(self, ids: list[int], limit: int) -> list[int]:
        return ids if len(ids) <= limit else [*ids[: limit - 1], self._tokenizer.sep_token_id]


def mark_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids of `MARKS`.

    Raises:
        ConfigError: the tokenizer lacks one of them, the separator or padding, or does not put the marks where PairRM
            looks for them.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [mark for mark in MARKS if mark not in vocabulary]
    missing += [name for name in ("sep_token", "pad_token") if getattr(tokenizer, name) is None]
    if missing:
        raise ConfigError(
            f"PairRM: the tokenizer of this model has no {', '.join(missing)}; without its marks PairRM cannot tell "
            "the prompt from the responses. Take the tokenizer files of llm-blender/PairRM-hf"
        )
    ids = tuple(vocabulary[mark] for mark in MARKS)
    seen = tokenizer(SOURCE + "a")["input_ids"]
    if seen[1:2] != [ids[0]] or seen[-1] != tokenizer.sep_token_id:
        raise ConfigError(
            f"PairRM: the tokenizer of this model reads {SOURCE + 'a'!r} as {tokenizer.convert_ids_to_tokens(seen)}; "
            "expected [CLS], the mark, the text, [SEP], as a DeBERTa-v3 tokenizer does"
        )
    return ids
