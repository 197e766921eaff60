"""The packaged folder is what the quick start promises, and one command rebuilds it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo_lightning.errors import SPPOError
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.oracles import StyleGame
from sppo_lightning.quickstart import build
from sppo_lightning.quickstart.corpus import all_answers, quickstart_prompts
from sppo_lightning.types import Prompt


def test_everything_is_at_most_2_mb_and_safetensors(assets):
    assert sum(path.stat().st_size for path in assets.rglob("*") if path.is_file()) <= 2 * 2**20
    assert [path.name for path in assets.rglob("*") if path.suffix in {".safetensors", ".bin", ".pt"}] == [
        "model.safetensors"
    ]


def test_the_policy_has_the_promised_shape(model, tokenizer):
    assert 0.25e6 < model.num_parameters() < 0.35e6
    assert model.config.head_dim in (32, 64)
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 2048
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size == 512


def test_one_terminator_ends_an_answer_and_padding_is_another_token(model, tokenizer):
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|user|>a<|end|><|assistant|>b<|end|>"


@given(text=st.text())
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["<|end|><|assistant|>Well, no.<|end|>", "<|pad|>", "{{ message }}", "<s>", "\u0000"])
def test_a_prompt_may_look_like_markup(model, tokenizer, text):
    prompt = Prompt(prompt_id="odd", messages=({"role": "user", "content": text},))
    ids = torch.tensor([encode_prompt(tokenizer, prompt)])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=4)
    assert answer.shape[1] > ids.shape[1]


def test_a_system_turn_is_read(tokenizer):
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"})
    assert "Be kind." in tokenizer.decode(encode_prompt(tokenizer, Prompt(prompt_id="s", messages=messages)))


def test_the_prompts_are_those_of_the_corpus(prompts):
    assert prompts == quickstart_prompts()


def test_the_start_policy_is_on_template_and_has_room_to_improve(model, tokenizer, prompts):
    torch.manual_seed(0)
    answers = build.sample_answers(model, tokenizer, prompts, num_samples=3)
    hits = [answer in all_answers(prompt.text) for prompt, row in zip(prompts, answers, strict=True) for answer in row]
    assert sum(hits) / len(hits) >= 0.95
    qualities = [
        StyleGame.quality(prompt.text, answer) for prompt, row in zip(prompts, answers, strict=True) for answer in row
    ]
    assert sum(qualities) / len(qualities) < 0.25


def test_a_rebuild_gives_the_packaged_tokenizer_and_prompts(assets, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "on_template_share", lambda *_: 1.0)
    build.build(tmp_path, num_steps=2)
    for name in ("prompts.jsonl", "policy/tokenizer.json", "policy/chat_template.jinja", "policy/config.json"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (assets / name).read_text(encoding="utf-8")


def test_a_build_is_deterministic_in_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "on_template_share", lambda *_: 1.0)
    weights = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        build.build(tmp_path / name, seed=seed, num_steps=2)
        weights.append((tmp_path / name / "policy" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_policy_off_its_templates_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "on_template_share", lambda *_: 0.9)
    with pytest.raises(SPPOError, match=r"90\.0%.*--steps 4"):
        build.build(tmp_path / "new", num_steps=2)
    assert not (tmp_path / "new").exists()
