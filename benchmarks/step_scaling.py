"""The training step's cost against the number of responses, their length, K, and the vocabulary: 4 sizes each, plotted.

    python benchmarks/step_scaling.py

Each point is the least CPU time of a few forward and backward passes of one pack through a small random Llama, one
thread; the points of a line are measured in turns. Results: `benchmarks/results/step_scaling.json`,
`docs/images/step_scaling.png`.
"""

from __future__ import annotations

import datetime
import json
import random
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sppo_lightning.functional.layout import layout_of
from sppo_lightning.functional.logps import response_loss
from sppo_lightning.functional.rows import TokenRows

mpl.use("agg")
import matplotlib.pyplot as plt

BASE = {"num_prompts": 4, "num_responses": 2, "response_tokens": 128, "vocabulary": 8192}
SIZES = {
    "num_prompts": [2, 4, 8, 16],
    "num_responses": [2, 4, 6, 8],
    "response_tokens": [64, 128, 256, 512],
    "vocabulary": [8192, 16384, 32768, 65536],
}
LABELS = {
    "num_prompts": "prompts (2 responses each)",
    "num_responses": "responses a prompt, K",
    "response_tokens": "tokens a response",
    "vocabulary": "vocabulary",
}
PROMPT_TOKENS, REPEATS = 256, 3
HERE = Path(__file__).parent


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """2 layers of width 128: small enough to sweep, large enough that calls cost little beside products."""
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape, tie_word_embeddings=True))
    assert layout_of(model).packed
    assert layout_of(model).fused
    return model


def make_rows(num_prompts: int, num_responses: int, response_tokens: int) -> TokenRows:
    """Prompts of 256 tokens with K responses of one length."""
    draw = random.Random(0)
    tokens = lambda size: [draw.randrange(8192) for _ in range(size)]  # noqa: E731
    prompts = [tokens(PROMPT_TOKENS) for _ in range(num_prompts)]
    return TokenRows(
        prompt_ids=[prompt for prompt in prompts for _ in range(num_responses)],
        response_ids=[tokens(response_tokens) for _ in range(num_prompts * num_responses)],
    )


def cpu_s(model: LlamaForCausalLM, rows: TokenRows) -> float:
    """CPU seconds of one forward and backward pass."""
    model.zero_grad()
    began = time.process_time()
    response_loss(model, rows, lambda logps_R: logps_R.square().mean()).backward()
    return time.process_time() - began


def main() -> None:
    """Measures, fits lines, plots."""
    torch.set_num_threads(1)
    results = {}
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2), constrained_layout=True)
    for axis, (name, sizes) in zip(axes, SIZES.items(), strict=True):
        cases = []
        for size in sizes:
            case = BASE | {name: size}
            model = make_model(case.pop("vocabulary"))
            cases.append((model, make_rows(**case)))
        seconds = np.min([[cpu_s(*case) for case in cases] for _ in range(REPEATS)], axis=0)
        slope, intercept = np.polyfit(sizes, seconds, 1)
        fitted = slope * np.array(sizes) + intercept
        r2 = 1 - ((seconds - fitted) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum()
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        results[name] = {"sizes": sizes, "cpu_s": seconds.tolist(), "r2_of_a_line": float(r2), "exponent": exponent}
        print(name, np.round(seconds, 3).tolist(), f"R2 of a line {r2:.4f}, exponent {exponent:.2f}", flush=True)
        axis.plot(sizes, seconds, "o")
        axis.plot(sizes, fitted, "-", linewidth=1)
        axis.set(xlabel=LABELS[name], xlim=(0, None), ylim=(0, None), title=f"$R^2$ of a line {r2:.3f}")
    axes[0].set_ylabel("CPU s, forward and backward")
    figure.savefig(HERE.parent / "docs" / "images" / "step_scaling.png", dpi=110)
    results["date"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    path = HERE / "results" / "step_scaling.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
