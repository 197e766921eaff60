"""Test tokenizers in the chat formats of the families people align: a token a byte, and each family's own markers.

The formats are those the families document; templates and vocabularies are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('a system turn is not supported') }}{% endif %}"


@dataclass(frozen=True)
class Family:
    """A chat format.

    Attributes:
        template: Jinja.
        special: the markers that are single tokens.
        bos: the begin token that the tokenizer adds to any text by itself; None: it adds none.
        eos: the tokenizer's end of sequence.
        terminator: what ends an assistant's turn.
        turns: what a user turn, an assistant's answer and a second user turn look like, with the opened answer.
        system: what stands before the first user turn where there is no system turn.
        with_system: what stands there with the system turn "Be brief."; None: the format has none.
    """

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    terminator: str
    turns: str
    system: str = ""
    with_system: str | None = None


def _im(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _header(role: str, text: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"


FAMILIES = {
    "mistral-v0.2": Family(
        template=NO_SYSTEM + "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
        special=("<unk>", "<s>", "</s>"),
        bos="<s>",
        eos="</s>",
        terminator="</s>",
        turns="<s>[INST] Hi [/INST] Yes</s>[INST] Why? [/INST]",
    ),
    "llama-3": Family(
        template="{{ bos_token }}{% for m in messages %}"
        "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        special=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        terminator="<|eot_id|>",
        turns="<|begin_of_text|>{system}" + _header("user", "Hi") + _header("assistant", "Yes")
        + _header("user", "Why?") + "<|start_header_id|>assistant<|end_header_id|>\n\n",
        with_system=_header("system", "Be brief."),
    ),
    "gemma-2": Family(
        template=NO_SYSTEM + "{{ bos_token }}{% for m in messages %}"
        "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        special=("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        terminator="<end_of_turn>",
        turns="<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "qwen2.5": Family(
        template="{% if messages[0]['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos=None,
        eos="<|im_end|>",
        terminator="<|im_end|>",
        turns="{system}" + _im("user", "Hi") + _im("assistant", "Yes") + _im("user", "Why?")
        + "<|im_start|>assistant\n",
        system=_im("system", "You are a helpful assistant."),
        with_system=_im("system", "Be brief."),
    ),
    "qwen3": Family(
        template="{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        bos=None,
        eos="<|im_end|>",
        terminator="<|im_end|>",
        turns="{system}" + _im("user", "Hi") + _im("assistant", "Yes") + _im("user", "Why?")
        + "<|im_start|>assistant\n",
        with_system=_im("system", "Be brief."),
    ),
}  # fmt: skip


def tokenizer_of(family: Family) -> PreTrainedTokenizerFast:
    """A tokenizer that speaks the family's format."""
    vocab = {token: i for i, token in enumerate([*family.special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in family.special])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if family.bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, vocab[family.bos])]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=family.bos, eos_token=family.eos)
    tokenizer.chat_template = family.template
    return tokenizer


def golden_ids(family: Family, text: str) -> list[int]:
    """The token ids of a text, read off the vocabulary by hand: each marker one token, each other byte one."""
    byte_of = {chr(byte): char for byte, char in _byte_characters().items()}
    vocab = {token: i for i, token in enumerate([*family.special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    ids, rest = [], text
    while rest:
        marker = next((marker for marker in family.special if rest.startswith(marker)), None)
        ids.append(vocab[marker or byte_of[rest[0]]])
        rest = rest[len(marker or rest[0]) :]
    return ids


def _byte_characters() -> dict[int, str]:
    """Which character stands for an ASCII byte in a byte-level vocabulary: itself if it can be seen."""
    return {byte: chr(byte) if 33 <= byte <= 126 else chr(256 + byte) for byte in range(127)}
