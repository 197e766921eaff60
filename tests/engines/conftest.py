"""A tiny policy that writes words, in memory and as a folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sppo_lightning.types import Prompt

from .served import VLLMServer

VOCAB = 40
EOS = 2


@dataclass
class Policy:
    """A `PolicyHandle`."""

    name: str
    folder: str
    model: Any
    tokenizer: Any

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype


def word_tokenizer(vocab: int = VOCAB, names: Mapping[int, str] | None = None) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": EOS} | {(names or {}).get(i, f"w{i}"): i for i in range(3, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
    fast.chat_template = "{{ bos_token }}{% for message in messages %} {{ message['content'] }}{% endfor %}"
    return fast


def tiny_llama(vocab: int = VOCAB, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    # Two heads of 32: the smallest head that every engine's attention takes.
    shape = {
        "vocab_size": vocab,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": EOS,
    }
    return LlamaForCausalLM(LlamaConfig(**shape | changes)).eval()


def make_policy(model: Any, folder: str = "unused", vocab: int = VOCAB) -> Policy:
    return Policy(name="start", folder=folder, model=model, tokenizer=word_tokenizer(vocab))


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The same weights in memory and on disk. Tests that change the model build their own."""
    folder: Path = tmp_path_factory.mktemp("policy")
    policy = make_policy(tiny_llama(), folder=str(folder))
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return policy


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """A real server for policies of `policy`'s shape, up to 512 tokens. Its own tokenizer knows the words A and B."""
    folder = tmp_path_factory.mktemp("served")
    tiny_llama(max_position_embeddings=512).save_pretrained(folder / "policy")
    word_tokenizer(names={VOCAB - 2: "A", VOCAB - 1: "B"}).save_pretrained(folder / "tokenizer")
    server = VLLMServer(folder / "policy", folder / "tokenizer", folder / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Twelve prompts of 1 to 23 words; one of them holds the padding token as a word."""
    words = [
        [f"w{3 + (7 * b + 5 * i) % (VOCAB - 3)}" for i in range(n)]
        for b, n in enumerate((3, 17, 1, 8, 23, 5, 5, 12, 2, 19, 9, 4))
    ]
    words[3][4] = "<pad>"
    return [
        Prompt(prompt_id=f"p{b}", messages=({"role": "user", "content": " ".join(row)},)) for b, row in enumerate(words)
    ]


@pytest.fixture(scope="session")
def seeds() -> list[list[int]]:
    """Five 63-bit seeds for each of the prompts."""
    return [[(b << 40) + (k << 20) + 12345 for k in range(5)] for b in range(12)]
