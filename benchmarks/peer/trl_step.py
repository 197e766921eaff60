"""TRL's DPOTrainer(loss_type="sppo_hard"), one setting a process, one JSON line; `benchmarks/step.py` runs it.

It needs an environment of its own: pip install "trl==1.16.0" "torch==2.13.0"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import datasets
import torch
import transformers
import trl
from step_workload import FIRST_LETTER, counted_tokens, make_model, make_pairs, peak_mb, resident_mb
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + '<|end|>' }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One character is one token, so that TRL sees exactly the token ids of the workload."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(special + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = CHAT
    fast.model_max_length = 1 << 20
    return fast


class Marks(transformers.TrainerCallback):
    """CPU seconds at the start and after each step."""

    def __init__(self) -> None:
        self.cpu_s: list[float] = []

    def on_step_begin(self, *args, **kwargs) -> None:
        """The start of the first step."""
        if not self.cpu_s:
            self.cpu_s.append(time.process_time())

    def on_step_end(self, *args, **kwargs) -> None:
        """The end of a step."""
        self.cpu_s.append(time.process_time())


def main() -> None:
    """Trains for a few steps after one to warm up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--precompute", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    tokenizer = make_tokenizer()
    pairs = make_pairs((arguments.steps + 1) * arguments.pairs)
    text = lambda ids: "".join(sorted(pre_tokenizers.ByteLevel.alphabet())[i - FIRST_LETTER] for i in ids)  # noqa: E731
    decoder = decoders.ByteLevel()
    rows = [
        {
            "prompt": [{"role": "user", "content": decoder.decode(list(text(pair.prompt)))}],
            "chosen": [{"role": "assistant", "content": decoder.decode(list(text(pair.chosen[:-1])))}],
            "rejected": [{"role": "assistant", "content": decoder.decode(list(text(pair.rejected[:-1])))}],
        }
        for pair in pairs
    ]
    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.DPOTrainer(
            model=make_model(arguments.model),
            ref_model=None if arguments.precompute else make_model(arguments.model),
            args=trl.DPOConfig(
                output_dir=folder,
                loss_type=["sppo_hard"],
                beta=1e-3,
                per_device_train_batch_size=arguments.pairs,
                max_steps=arguments.steps + 1,
                learning_rate=5e-7,
                bf16=arguments.bf16,
                use_cpu=True,
                precompute_ref_log_probs=arguments.precompute,
                train_sampling_strategy="sequential",
                max_length=1024,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                lr_scheduler_type="constant",
                dataloader_pin_memory=False,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[marks],
        )
        reference_s = 0.0
        if arguments.precompute:  # once more, by itself
            data = trainer.train_dataset.remove_columns(["ref_chosen_logps", "ref_rejected_logps"])
            data._fingerprint = f"benchmark{os.getpid()}"
            began = time.process_time()
            trainer._precompute_ref_logps(data, "train", arguments.pairs)
            reference_s = (time.process_time() - began) * arguments.steps / (arguments.steps + 1)
        before = resident_mb()
        trainer.train()
        counted = counted_tokens(pairs[arguments.pairs :])
    print(
        json.dumps(
            {
                "version": trl.__version__,
                "tokens": counted,
                "step_cpu_s": marks.cpu_s[-1] - marks.cpu_s[1],
                "reference_cpu_s": reference_s,
                "memory_mb": peak_mb() - before,
            }
        )
    )


if __name__ == "__main__":
    main()
