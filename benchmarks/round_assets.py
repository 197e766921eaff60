"""What `round.py` plays with: a policy of 23M parameters, a PairRM to scale, and prompts; random weights.

A word is a token for both models, so lengths are what they are meant to be. One token in `MEAN_TOKENS` of the policy's
ends a response: untrained, the policy draws all of them alike, and response lengths are spread as real ones are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DebertaV2Config, DebertaV2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096  # with 384 dimensions the head has the share of an 8B model's
MEAN_TOKENS = 48
JUDGE_LAYERS, JUDGE_HIDDEN = 24, 96  # as deep as PairRM; an eighth of the policy, as PairRM is of one of 3B
MARKS = ("<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>")
_ROLES = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_assets(folder: Path, num_prompts: int) -> None:
    """Writes `policy/`, `judge/` and `prompts.jsonl`."""
    torch.manual_seed(0)
    _save_policy(folder / "policy")
    _save_judge(folder / "judge")
    lengths = np.random.default_rng(0)
    rows = []
    for number in range(num_prompts):
        words = lengths.integers(len(_ROLES), VOCABULARY, int(np.clip(lengths.lognormal(np.log(40), 0.85), 8, 160)))
        rows.append({"prompt_id": f"p{number}", "prompt": " ".join(f"w{word}" for word in words)})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _words(special: tuple[str, ...]) -> dict[str, int]:
    words = [*special, *(f"w{number}" for number in range(len(_ROLES), VOCABULARY))]
    return {word: index for index, word in enumerate(words)}


def _save_policy(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel(_words(_ROLES), unk_token="<|pad|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=12,
            num_attention_heads=6,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            pad_token_id=0,
        )
    )
    model.generation_config.eos_token_id = [1, *range(VOCABULARY - VOCABULARY // MEAN_TOKENS, VOCABULARY)]
    model.save_pretrained(folder)


def _save_judge(folder: Path) -> None:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *MARKS)
    words = _words(special)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        additional_special_tokens=list(MARKS),
    )
    fast.save_pretrained(folder)
    # The kind of attention that DeBERTa-v3, PairRM's encoder, has.
    config = DebertaV2Config(
        vocab_size=len(words),
        hidden_size=JUDGE_HIDDEN,
        num_hidden_layers=JUDGE_LAYERS,
        num_attention_heads=3,
        intermediate_size=4 * JUDGE_HIDDEN,
        max_position_embeddings=512,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=64,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
    )
    network = {f"pretrained_model.{name}": value for name, value in DebertaV2Model(config).state_dict().items()}
    for number, layer in {
        1: torch.nn.Linear(2 * JUDGE_HIDDEN, JUDGE_HIDDEN),
        4: torch.nn.Linear(JUDGE_HIDDEN, 1),
    }.items():
        network |= {f"head_layer.{number}.{name}": value for name, value in layer.state_dict().items()}
    save_file({name: value.detach().clone() for name, value in network.items()}, folder / "model.safetensors")
    keys = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id")
    content = config.to_dict() | dict(zip(keys, (words[mark] for mark in MARKS), strict=True)) | {"n_tasks": 1}
    (folder / "config.json").write_text(json.dumps(content))
