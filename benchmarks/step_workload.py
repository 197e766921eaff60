"""What the benchmark of the training step trains on: random Llama models and preference pairs of realistic lengths.

It runs under the peer's interpreter, too, and imports nothing of this package.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# vocabulary, hidden size, layers, attention heads, key-value heads, size of the feed-forward layer
MODELS = {
    "S": (32000, 384, 6, 6, 6, 1024),  # 23M, the head is 54 % of the matrix products' parameters
    "M": (128256, 512, 4, 8, 4, 1408),  # 78M, 84 %: a large vocabulary
    "B": (4096, 384, 12, 6, 6, 1024),  # 23M, 7 %: the head's share in an 8B model
}
PAD, END, FIRST_LETTER = 0, 1, 5


@dataclass(frozen=True)
class Pair:
    """A prompt and two responses, as token ids, and P(chosen beats rejected)."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prob: float


def make_model(name: str, **config: Any) -> Any:
    """A random Llama with tied embeddings, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary, hidden, layers, heads, kv_heads, feed_forward = MODELS[name]
    torch.manual_seed(0)
    arguments = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }
    return LlamaForCausalLM(LlamaConfig(**arguments | config))


def matrix_parameters(name: str) -> tuple[int, int]:
    """Parameters of the body's matrix products, and of the head's."""
    vocabulary, hidden, layers, heads, kv_heads, feed_forward = MODELS[name]
    head_size = hidden // heads
    body = layers * (2 * hidden * heads * head_size + 2 * hidden * kv_heads * head_size + 3 * hidden * feed_forward)
    return body, vocabulary * hidden


def make_pairs(count: int, seed: int = 1) -> list[Pair]:
    """Prompts of 20 to 500 tokens (median 110), responses of 50 to 800 (median 280), correlated within a pair."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        prompt = int(np.clip(rng.lognormal(np.log(110), 0.85), 20, 500))
        base = rng.lognormal(np.log(280), 0.5)
        chosen, rejected = (
            min(int(np.clip(base * rng.lognormal(0, 0.3), 50, 800)), 1024 - prompt - 8) for _ in range(2)
        )
        letters = [rng.integers(FIRST_LETTER, 38, size).tolist() for size in (prompt, chosen, rejected)]
        pairs.append(Pair(letters[0], [*letters[1], END], [*letters[2], END], float(rng.uniform(0.5, 1))))
    return pairs


def counted_tokens(pairs: list[Pair]) -> int:
    """Tokens as TRL counts them: a prompt once with each response, whatever is computed."""
    return sum(2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)


def peak_mb() -> float:
    """The process's largest memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    """The process's memory now, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
