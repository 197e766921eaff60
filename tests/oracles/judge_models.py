"""Tiny judges of the published layouts, with random weights and tokenizers made on the spot."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

PROMPTS = Path(__file__).parents[2] / "sppo_lightning" / "assets" / "quickstart" / "prompts.jsonl"
MARKS = ["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"]
PREFIX_KEYS = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system messages here') }}{% endif %}{% endfor %}"
)


@cache
def shared(kind: str) -> str:
    """A folder with one of these models, made once for the session: "pairrm", "blender", "classifier", "gpm"."""
    folder = Path(tempfile.mkdtemp(prefix=f"judge-{kind}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make = {
        "pairrm": lambda: save_pairrm(folder, limits=(48, 24)),
        "blender": lambda: save_pairrm(folder, limits=(48, 24), layout="blender"),
        "classifier": lambda: save_classifier(folder),
        "gpm": lambda: save_gpm(folder),
    }[kind]
    return str(make())


@cache
def texts() -> list[str]:
    """The quick start's prompts."""
    return [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]


@cache
def _pieces() -> list[tuple[str, float]]:
    """Unigram pieces trained on the quick start's prompts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def save_pairrm(
    folder: Path, *, layout: str = "hub", limits: tuple[int, int] = (1224, 412), edit: Any = None, **shape: int
) -> Path:
    """A PairRM of random weights, the same in both layouts.

    `layout` "hub" is PairRM-hf's, "blender" llm-blender's own, its encoder beside it; `edit` may change the weights.
    """
    from safetensors.torch import save_file
    from transformers import DebertaV2Config, DebertaV2Model, DebertaV2Tokenizer

    torch.manual_seed(0)
    tokenizer = DebertaV2Tokenizer(vocab=_pieces())
    config = DebertaV2Config(
        **{
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 512,
            "initializer_range": 0.3,
        }
        | shape,
        vocab_size=len(tokenizer),
        # As deberta-v3-large is configured.
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=64,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        layer_norm_eps=1e-7,
    )
    encoder = DebertaV2Model(config)
    folder.mkdir(parents=True, exist_ok=True)
    ranker = {"n_tasks": 1, "drop_out": 0.05, "source_maxlength": limits[0], "candidate_maxlength": limits[1]}
    if layout == "blender":
        encoder.save_pretrained(folder / "encoder")
        tokenizer.save_pretrained(folder / "encoder")
        ranker |= {"ranker_type": "pairranker", "model_type": "deberta", "model_name": str(folder / "encoder")}
    tokenizer.add_tokens(MARKS)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if layout == "hub":
        tokenizer.save_pretrained(folder)
        ranker = config.to_dict() | {"architectures": ["DebertaV2PairRM"], "vocab_size": len(tokenizer)} | ranker
        ranker |= dict(zip(PREFIX_KEYS, tokenizer.convert_tokens_to_ids(MARKS), strict=True))
    (folder / "config.json").write_text(json.dumps(ranker), encoding="utf-8")
    hidden = config.hidden_size
    head = {1: torch.nn.Linear(2 * hidden, hidden), 4: torch.nn.Linear(hidden, 1)}
    torch.nn.init.normal_(head[4].weight)
    weights = {f"pretrained_model.{name}": value for name, value in encoder.state_dict().items()}
    for place, layer in head.items():
        weights |= {f"head_layer.{place}.{name}": value for name, value in layer.state_dict().items()}
    if edit:
        edit(weights)
    save_file({name: value.detach().clone() for name, value in weights.items()}, folder / "model.safetensors")
    return folder


def chat_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Bytes, and one token for each role; padding is the token that ends a turn, as in many a judge."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    fast.chat_template = template
    return fast


def llama_config(**changes: Any) -> Any:
    from transformers import LlamaConfig

    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return LlamaConfig(vocab_size=len(tokenizer), **shape | changes)


def save_classifier(folder: Path, num_labels: int = 1, template: str | None = TEMPLATE) -> Path:
    """A reward model as most are: a decoder with a linear head."""
    from transformers import LlamaForSequenceClassification

    LlamaForSequenceClassification(llama_config(num_labels=num_labels)).save_pretrained(folder)
    chat_tokenizer(template).save_pretrained(folder)
    return folder


def save_decoder(folder: Path, architecture: str, heads: dict[str, torch.Tensor], **config: Any) -> Path:
    """A decoder with further heads, in one file, as custom classes store them."""
    from safetensors.torch import save_file
    from transformers import LlamaModel

    made = llama_config(**config)
    weights = {f"model.{name}": value for name, value in LlamaModel(made).state_dict().items()} | heads
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().clone() for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(made.to_dict() | {"architectures": [architecture]} | config))
    chat_tokenizer().save_pretrained(folder)
    return folder


def save_gpm(folder: Path, num_values: int = 4, prompt_head: bool = True, value_head: Any = None) -> Path:
    """A general preference model."""
    torch.manual_seed(1)
    heads = {"value_head.weight": torch.randn(num_values, 16) if value_head is None else value_head}
    if prompt_head:
        heads["prompt_head.weight"] = torch.randn(num_values // 2, 16)
    return save_decoder(folder, "LlamaForCausalLM", heads)


def save_armorm(folder: Path, num_objectives: int = 5) -> Path:
    """An ArmoRM."""
    torch.manual_seed(1)
    sizes = [16, 8, 8, num_objectives]
    heads = {
        "regression_layer.weight": torch.randn(num_objectives, 16),
        "reward_transform_matrix": torch.eye(num_objectives) - 0.1,
        "gating.logit_scale": torch.tensor([1.3]),
    }
    for i in range(3):
        heads |= {f"gating.layers.{i}.weight": torch.randn(sizes[i + 1], sizes[i])}
        heads |= {f"gating.layers.{i}.bias": torch.randn(sizes[i + 1])}
    return save_decoder(
        folder, "LlamaForRewardModelWithGating", heads, num_objectives=num_objectives, gating_temperature=2.0
    )
