"""How fast PairRM judges: batches of similar length against other ways to batch, on one core, side by side in one run.

    python benchmarks/judges.py [--prompts 6] [--device cuda]

A DeBERTa of random weights and realistic lengths: prompts of some 60 tokens, responses of some 250, both log-normal,
five responses a prompt in all 20 orders. Prints pairs per CPU-second (per second on a GPU), the ratio to one pair at a
time, the share of the model's input that is padding, and how far the logits lie from those of one pair at a time.
llm-blender runs where it is installed. Takes about 4 CPU-minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from sppo_lightning.functional.rows import split_rows
from sppo_lightning.oracles import LLMBlender, PairRM, judge_model
from sppo_lightning.oracles.pairwise import Pair
from sppo_lightning.types import Prompt
from tests.oracles.judge_models import save_pairrm, texts

K = 5
BATCH = 8


def make_pairs(num_prompts: int, seed: int) -> list[Pair]:
    """All ordered pairs of K responses to each prompt."""
    rng = random.Random(seed)
    words = [word for text in texts() for word in text.split()]

    def text(median_words: float, spread: float) -> str:
        return " ".join(rng.choices(words, k=max(1, int(median_words * rng.lognormvariate(0, spread)))))

    pairs = []
    for number in range(num_prompts):
        prompt = Prompt(prompt_id=f"p{number}", messages=({"role": "user", "content": text(20, 0.8)},))
        responses = [text(85, 0.6) for _ in range(K)]
        pairs += [Pair(prompt=prompt, first=a, second=b) for a in responses for b in responses if a is not b]
    return pairs


def as_they_come(lengths: Sequence[int]) -> list[list[int]]:
    """Batches of BATCH rows in an order without meaning; `in_batches` pads to the first row, so the longest leads."""
    order = random.Random(1).sample(range(len(lengths)), len(lengths))
    batches = [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]
    return [sorted(batch, key=lambda row: -lengths[row]) for batch in batches]


def sorted_batches(lengths: Sequence[int]) -> list[list[int]]:
    """The same BATCH rows a batch, neighbours in length."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[begin : begin + BATCH] for begin in range(0, len(order), BATCH)]


@dataclass
class Way:
    """One way to judge the pairs, and what it took."""

    name: str
    judge: Callable[[], Tensor]
    padding: float
    seconds: float = float("inf")
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))


def native_ways(native: PairRM, pairs: Sequence[Pair]) -> list[Way]:
    """PairRM's own loop with other batches in it."""
    native.logits(pairs[:2])
    rows = native._tokens.rows([(pair.prompt.text, pair.first, pair.second) for pair in pairs])[0]
    lengths = [len(row.ids) for row in rows]
    print(f"{len(pairs)} ordered pairs, {sum(lengths) / len(lengths):.0f} tokens each, at most {max(lengths)}")
    budget = judge_model.choose_batch_tokens(None, torch.device(native.device))
    made = {
        "one pair at a time": [[row] for row in range(len(lengths))],
        f"batches of {BATCH} as they come": as_they_come(lengths),
        f"batches of {BATCH} of similar length": sorted_batches(lengths),
        f"PairRM: similar length, {budget} tokens": split_rows(lengths, budget),
    }

    def judge(batches: list[list[int]]) -> Tensor:
        judge_model.split_rows = lambda _lengths, _budget: batches
        return native.logits(pairs)

    def padding(batches: list[list[int]]) -> float:
        return 1 - sum(lengths) / sum(len(batch) * lengths[batch[0]] for batch in batches)

    return [Way(name, partial(judge, batches), padding(batches)) for name, batches in made.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6, help="prompts, of 20 ordered pairs each")
    parser.add_argument("--hidden", type=int, default=128, help="width of the DeBERTa; PairRM's is 1024")
    parser.add_argument("--layers", type=int, default=3, help="its layers; PairRM has 24")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for seconds of a GPU")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    pairs = make_pairs(arguments.prompts, seed=0)
    with tempfile.TemporaryDirectory() as root:
        shape = {
            "hidden_size": arguments.hidden,
            "num_hidden_layers": arguments.layers,
            "num_attention_heads": max(1, arguments.hidden // 64),
            "intermediate_size": 4 * arguments.hidden,
        }
        ways = native_ways(PairRM(str(save_pairrm(Path(root) / "hub", **shape)), device=arguments.device), pairs)
        if find_spec("llm_blender"):
            folder = save_pairrm(Path(root) / "blender", layout="blender", **shape)
            real = LLMBlender(str(folder), device=arguments.device)
            real.logits(pairs[:2])
            ways.append(Way("llm-blender, one pair at a time", lambda: real.logits(pairs), 0.0))
        for way in [*ways, *reversed(ways)]:  # twice around: a busy machine slows whoever runs at the time
            begin = clock()
            way.logits = way.judge().double()
            way.seconds = min(way.seconds, clock() - begin)
    print(f"{'':42}{'pairs/s':>9}{'ratio':>7}{'padding':>9}{'dlogit':>10}")
    for way in ways:
        gap = float((way.logits - ways[0].logits).abs().max())
        ratio = ways[0].seconds / way.seconds
        print(f"{way.name:42}{len(pairs) / way.seconds:9.2f}{ratio:7.2f}{way.padding:9.0%}{gap:10.1e}")


if __name__ == "__main__":
    main()
