"""Responses a CPU-second: the Transformers engine against VLLM, same policy, same prompts, one thread, one run.

    python benchmarks/engines.py [--policy FOLDER] [--prompts 64] [--candidates 5] [--max_new_tokens 128]

A worker's start is counted apart. CPU-seconds rather than the clock's, which other work on the machine lengthens.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import torch

from sppo_lightning.engines import VLLM, Engine, Transformers
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.prompts import read_prompts
from sppo_lightning.training.policy import StoredPolicy, load_tokenizer
from sppo_lightning.types import Prompt


def children_cpu_s() -> float:
    """CPU-seconds of this process's children that live, of those that are gone, and of theirs."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            ticks += sum(map(int, fields[11:15]))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / os.sysconf("SC_CLK_TCK") + used.ru_utime + used.ru_stime


def cpu_s() -> float:
    return time.process_time() + children_cpu_s()


def measure(engine: Engine, policy: StoredPolicy, prompts: list[Prompt], num_candidates: int) -> tuple[float, float]:
    """(CPU-seconds until the first response is there, responses a CPU-second after that)."""
    begin = cpu_s()
    engine.open(policy)
    engine.generate(prompts[:1], [[0]])
    started = cpu_s()
    engine.generate(prompts, [[1000 * b + k for k in range(num_candidates)] for b in range(len(prompts))])
    ended = cpu_s()
    engine.close()
    return started - begin, len(prompts) * num_candidates / (ended - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="package:quickstart/policy")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = resolve(arguments.policy)
    tokenizer = load_tokenizer(source)
    prompts = list(read_prompts("package:quickstart/prompts.jsonl"))[: arguments.prompts]
    rates = {}
    for engine_class in (Transformers, VLLM):
        policy = StoredPolicy("start", source, tokenizer, torch.float32, torch.device("cpu"))
        engine = engine_class(max_new_tokens=arguments.max_new_tokens)
        start_s, rates[engine_class] = measure(engine, policy, prompts, arguments.candidates)
        print(
            f"{engine_class.__name__}: {rates[engine_class]:.2f} responses/CPU-s, start {start_s:.1f} CPU-s", flush=True
        )
    print(f"VLLM / Transformers: {rates[VLLM] / rates[Transformers]:.2f}")


if __name__ == "__main__":
    main()
