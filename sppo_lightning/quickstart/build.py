"""Rebuilds the quick start's assets: `python -m sppo_lightning.quickstart.build` (a few CPU minutes, one thread).

How the packaged policy was made: a byte-level BPE tokenizer learnt from sampled answers of `corpus.py`; a Llama of 0.3M
parameters trained from scratch on fresh samples of the same templates, loss on the answer alone, AdamW with a linear
warm-up and a cosine decay; then a check, by sampling, that nearly all its answers are sentences of the templates. The
build is deterministic in its seed on one machine.
"""

from __future__ import annotations

import argparse
import json
import math
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sppo_lightning.errors import SPPOError
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.quickstart.corpus import all_answers, quickstart_prompts, sample_answer
from sppo_lightning.quickstart.tokenizer import build_tokenizer
from sppo_lightning.types import Prompt

NUM_STEPS = 600
BATCH_SIZE = 64
PEAK_LR = 4e-3
WARMUP_STEPS = 50
MIN_ON_TEMPLATE = 0.95
# The longest answer of the templates has 47 tokens with its terminator.
MAX_ANSWER_TOKENS = 48
_IGNORE = -100


def build(folder: Path, seed: int = 0, num_steps: int = NUM_STEPS) -> float:
    """Writes `folder/prompts.jsonl` and `folder/policy/`.

    Args:
        folder: created if missing; files of an earlier build are replaced.
        seed: of the corpus samples, the initial weights and the check.
        num_steps: gradient steps of `BATCH_SIZE` answers.

    Returns:
        The share of sampled answers that are on-template.

    Raises:
        SPPOError: that share is below `MIN_ON_TEMPLATE`; nothing is written.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random = Random(seed)
    prompts = quickstart_prompts()
    tokenizer = build_tokenizer(
        text for prompt in prompts for _ in range(20) for text in (prompt.text, sample_answer(prompt, random))
    )
    model = LlamaForCausalLM(_config(tokenizer))
    _train(model, tokenizer, prompts, random, num_steps)
    share = on_template_share(model, tokenizer, prompts)
    if share < MIN_ON_TEMPLATE:
        raise SPPOError(
            f"Only {share:.1%} of the trained policy's answers are on-template; at least {MIN_ON_TEMPLATE:.0%} are "
            f"needed. Train longer: --steps {2 * num_steps}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt_id": prompt.prompt_id, "prompt": prompt.text} for prompt in prompts]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    return share


def on_template_share(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> float:
    """Returns the share of sampled answers that are exactly a sentence the templates allow.

    Args:
        model: the policy, a causal language model.
        tokenizer: its tokenizer.
        prompts: quick-start prompts.
    """
    answers = sample_answers(model, tokenizer, prompts, num_samples=4)
    hits = [answer in all_answers(prompt.text) for prompt, row in zip(prompts, answers, strict=True) for answer in row]
    return sum(hits) / len(hits)


@torch.no_grad()
def sample_answers(
    model: Any, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], num_samples: int
) -> list[list[str]]:
    """Draws answers at temperature 1 from torch's global generator.

    Args:
        model: the policy, a causal language model.
        tokenizer: its tokenizer.
        prompts: B prompts.
        num_samples: answers drawn for each prompt.

    Returns:
        [B][num_samples] texts.
    """
    encoded = tokenizer.pad(
        {"input_ids": [encode_prompt(tokenizer, prompt) for prompt in prompts]}, return_tensors="pt"
    )
    output = model.generate(
        **encoded, do_sample=True, top_k=0, max_new_tokens=MAX_ANSWER_TOKENS, num_return_sequences=num_samples
    )
    texts = tokenizer.batch_decode(output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    return [texts[first : first + num_samples] for first in range(0, len(texts), num_samples)]


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], random: Random, num_steps: int
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, num_steps))
    bar = tqdm(range(num_steps), desc="training the quick-start policy", unit="step")
    for _ in bar:
        batch = [_example(tokenizer, prompt, random) for prompt in random.choices(prompts, k=BATCH_SIZE)]
        length = max(len(ids) for ids, _ in batch)
        input_ids = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in batch])
        labels = torch.tensor([label + [_IGNORE] * (length - len(label)) for _, label in batch])
        # Padding stands on the right of causal attention and has no label, so that it needs no mask.
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        bar.set_postfix(nats_per_token=f"{loss.item():.3f}")
    model.eval()


def _lr_factor(step: int, num_steps: int) -> float:
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * (0.02 + 0.98 * (1 + math.cos(math.pi * step / num_steps)) / 2)


def _example(tokenizer: PreTrainedTokenizerFast, prompt: Prompt, random: Random) -> tuple[list[int], list[int]]:
    question = encode_prompt(tokenizer, prompt)
    answer = [*tokenizer.encode(sample_answer(prompt, random), add_special_tokens=False), tokenizer.eos_token_id]
    return question + answer, [_IGNORE] * len(question) + answer


def main() -> None:
    """Parses the command line and builds."""
    packaged = Path(str(files("sppo_lightning"))) / "assets" / "quickstart"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=packaged, help="folder to write (default: the packaged assets)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="gradient steps")
    args = parser.parse_args()
    share = build(args.output, args.seed, args.steps)
    print(f"{args.output}: {share:.1%} of the policy's answers are on-template")


if __name__ == "__main__":
    main()
