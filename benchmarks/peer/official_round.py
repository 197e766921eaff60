"""A round as the official SPPO scripts play it, on transformers alone: the peer of `benchmarks/round.py`.

    python benchmarks/peer/official_round.py ASSETS RESULT.json

What uclaml/SPPO's scripts do: K passes of generation over all prompts in the order of the file, PairRM at batch size 1
over all ordered pairs in that order, then a trainer that pads chosen and rejected responses to a rectangle, runs a
reference model beside the policy in every step, and checkpoints activations (`recipes/uclaml-sppo/config_full.yaml`).
They generate with vLLM on GPUs; here transformers' own batched `generate` stands in its place.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo_lightning.oracles.pairrm import PairRM
from sppo_lightning.oracles.pairwise import Pair
from sppo_lightning.types import Prompt

GENERATION_BATCH = 16
PAIRS_AT_ONCE = 4


def generate(
    model: Any, tokenizer: Any, prompts: list[str], num_candidates: int, max_new_tokens: int
) -> list[list[list[int]]]:
    """[B][K] token ids: K passes over the prompts, sixteen at a time."""
    tokenizer.padding_side = "left"
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        for prompt in prompts
    ]
    ends = set(model.generation_config.eos_token_id)
    responses: list[list[list[int]]] = [[] for _ in prompts]
    for candidate in range(num_candidates):
        torch.manual_seed(candidate)
        for start in range(0, len(prompts), GENERATION_BATCH):
            batch = tokenizer(texts[start : start + GENERATION_BATCH], padding=True, return_tensors="pt")
            output = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=True,
                top_k=0,
                max_new_tokens=max_new_tokens,
            )
            for row, tokens in enumerate(output[:, batch["input_ids"].shape[1] :].tolist()):
                length = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
                responses[start + row].append(tokens[:length])
    return responses


def judge(judge_folder: Path, prompts: list[str], texts: list[list[str]]) -> Tensor:
    """[B, K, K] log-odds of all ordered pairs, one at a time."""
    oracle = PairRM(str(judge_folder), batch_tokens=1)
    logits_BKK = torch.zeros(len(prompts), len(texts[0]), len(texts[0]))
    for b, (prompt, answers) in enumerate(zip(prompts, texts, strict=True)):
        asked = Prompt(prompt_id=str(b), messages=({"role": "user", "content": prompt},), metadata={})
        for i, first in enumerate(answers):
            for j, second in enumerate(answers):
                if i != j:
                    logits_BKK[b, i, j] = oracle.logits([Pair(prompt=asked, first=first, second=second)])[0]
    return logits_BKK


def train(
    policy: Any, reference: Any, pairs: list[tuple[list[int], list[int], list[int], float, float]], batch: int
) -> None:
    """SPPO's loss on (prompt, chosen, rejected, and their win rates), padded, one epoch."""
    policy.train()
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-7)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    for step in range(0, len(order), batch):
        for start in range(step, min(step + batch, len(order)), PAIRS_AT_ONCE):
            rows = [pairs[i] for i in order[start : min(start + PAIRS_AT_ONCE, step + batch)]]
            policy_logps = _logps(policy, rows)
            with torch.no_grad():
                reference_logps = _logps(reference, rows)
            wins = torch.tensor([row[3] for row in rows] + [row[4] for row in rows])
            loss = ((policy_logps - reference_logps) - 1e3 * (wins - 0.5)).square().sum() / batch
            loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _logps(model: Any, rows: list[Any]) -> Tensor:
    """[2 R] of all chosen, then all rejected responses, each padded to the longest."""
    sequences = [(row[0], row[1]) for row in rows] + [(row[0], row[2]) for row in rows]
    longest = max(len(prompt) + len(response) for prompt, response in sequences)
    input_ids = torch.zeros((len(sequences), longest), dtype=torch.long)
    labels = torch.full_like(input_ids, -100)
    mask = torch.zeros_like(input_ids)
    for i, (prompt, response) in enumerate(sequences):
        whole = torch.tensor([*prompt, *response])
        input_ids[i, : len(whole)], mask[i, : len(whole)] = whole, 1
        labels[i, len(prompt) : len(whole)] = whole[len(prompt) :]
    logits = model(input_ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    targets = labels[:, 1:]
    logps = logits.log_softmax(-1).gather(2, targets.clamp(min=0)[:, :, None])[:, :, 0]
    return (logps * (targets != -100)).sum(-1)


def main() -> None:
    """Plays the round and writes the seconds of each stage."""
    assets, result = Path(sys.argv[1]), Path(sys.argv[2])
    settings = json.loads((assets / "settings.json").read_text())
    torch.set_num_threads(1)
    prompts = [json.loads(line)["prompt"] for line in (assets / "prompts.jsonl").read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(assets / "policy")
    policy, reference = (AutoModelForCausalLM.from_pretrained(assets / "policy").eval() for _ in range(2))
    clocks = [(time.perf_counter(), time.process_time())]
    with torch.no_grad():
        responses = generate(policy, tokenizer, prompts, settings["num_candidates"], settings["max_new_tokens"])
        clocks.append((time.perf_counter(), time.process_time()))
        texts = [tokenizer.batch_decode(group, skip_special_tokens=True) for group in responses]
        logits_BKK = judge(assets / "judge", prompts, texts)
    clocks.append((time.perf_counter(), time.process_time()))
    scores_BK = (logits_BKK - logits_BKK.transpose(1, 2)).mean(-1)
    probs_BKK = torch.sigmoid(scores_BK[:, :, None] - scores_BK[:, None])
    pairs = []
    for prompt, group, wins_K in zip(prompts, responses, probs_BKK.mean(-1).tolist(), strict=True):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        best, worst = max(range(len(group)), key=wins_K.__getitem__), min(range(len(group)), key=wins_K.__getitem__)
        pairs.append((ids, group[best], group[worst], wins_K[best], wins_K[worst]))
    train(policy, reference, pairs, settings["global_batch_prompts"])
    clocks.append((time.perf_counter(), time.process_time()))
    stages = ("generate", "judge", "train")
    spent = {
        kind: {stage: clocks[i + 1][clock] - clocks[i][clock] for i, stage in enumerate(stages)}
        for clock, kind in enumerate(("wall_s", "cpu_s"))
    }
    tokens = sum(len(response) for group in responses for response in group)
    result.write_text(json.dumps(spent | {"generated_tokens": tokens, "trained_responses": 2 * len(pairs)}))


if __name__ == "__main__":
    main()
