"""Policies are read safely and written whole: an export is what was trained, for anybody's transformers."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.policy import StoredPolicy, export_policy, load_policy, load_tokenizer


def same_weights(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_the_last_export_is_the_policy_that_was_trained(finished_run):
    folder = finished_run.module.run_folder.export(2)
    exported = AutoModelForCausalLM.from_pretrained(folder)
    assert same_weights(exported, finished_run.module.policy)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "w1 w2"}], return_tensors="pt", return_dict=True)
    answer = exported.generate(**ids, max_new_tokens=5, do_sample=False)
    assert answer.shape[1] > ids["input_ids"].shape[1]
    assert tokenizer.decode(answer[0, :3]).split() == ["<s>", "w1", "w2"]


def test_every_round_has_an_export_of_its_own(finished_run, policy_folder):
    models = [AutoModelForCausalLM.from_pretrained(finished_run.module.run_folder.export(t)) for t in range(3)]
    models.append(AutoModelForCausalLM.from_pretrained(policy_folder))
    assert sum(same_weights(one, other) for one in models for other in models) == len(models)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied(tiny, tmp_path, tied):
    folder = tiny.save_policy(tmp_path / "policy", tie_word_embeddings=tied)
    model = load_policy(str(folder))
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)
    export_policy(model, tiny.tokenizer(), tmp_path / "export")
    with safe_open(tmp_path / "export" / "model.safetensors", "pt") as tensors:
        assert ("lm_head.weight" in tensors.keys()) != tied  # noqa: SIM118 - not a dictionary
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert (back.lm_head.weight is back.model.embed_tokens.weight) == tied
    assert same_weights(back, model)


def test_bfloat16_comes_back_as_bfloat16(tiny, tmp_path, policy_folder):
    model = load_policy(str(policy_folder), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    export_policy(model, tiny.tokenizer(), tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["dtype"] == "bfloat16"
    assert same_weights(load_policy(str(tmp_path / "export"), torch.bfloat16), model)


def test_a_finished_export_is_kept(tiny, tmp_path, policy_folder):
    model = load_policy(str(policy_folder))
    export_policy(model, tiny.tokenizer(), tmp_path / "export")
    before = (tmp_path / "export" / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    export_policy(model, tiny.tokenizer(), tmp_path / "export")
    assert (tmp_path / "export" / "model.safetensors").read_bytes() == before


def test_dropout_is_off_in_the_configuration(tiny, tmp_path):
    model = load_policy(str(tiny.save_policy(tmp_path, attention_dropout=0.1)))
    assert model.config.attention_dropout == 0.0
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.0}


def test_dropout_is_off_in_a_multimodal_model_s_language_part(tmp_path):
    from transformers import Gemma3Config

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 12, "num_key_value_heads": 1, "head_dim": 8, "attention_dropout": 0.1}
    vision = {"image_size": 8, "patch_size": 4}
    config = Gemma3Config(text_config=shape | text, vision_config=shape | vision, mm_tokens_per_image=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    layers = [module for module in load_policy(str(tmp_path)).modules() if hasattr(module, "attention_dropout")]
    assert [layer.attention_dropout for layer in layers] == [0.0]


def test_modules_that_drop_are_switched_off(tiny, tmp_path, monkeypatch):
    """Some models hard-code a rate that their configuration does not know."""
    from transformers import LlamaForCausalLM

    folder = tiny.save_policy(tmp_path)
    original = LlamaForCausalLM.from_pretrained.__func__

    def with_dropout(cls, *args, **kwargs):
        model = original(cls, *args, **kwargs)
        model.model.extra = torch.nn.Dropout(0.3)
        return model

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", classmethod(with_dropout))
    assert load_policy(str(folder)).model.extra.p == 0.0


def unreadable(kind, tiny, tmp_path):
    folder = tmp_path / "policy"
    if kind == "missing":
        return folder
    tiny.save_policy(folder)
    if kind == "pickle":
        torch.save(tiny.llama().state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    elif kind == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    elif kind == "not a model":
        (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("kind", ["missing", "pickle", "truncated", "not a model"])
def test_what_cannot_be_read_is_said_in_one_line(tiny, tmp_path, kind):
    folder = unreadable(kind, tiny, tmp_path)
    with pytest.raises(ConfigError, match=r"model.policy: no model can be read from .*policy.* Give a folder") as error:
        load_policy(str(folder))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer(tiny, tmp_path):
    tiny.llama().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.policy: no tokenizer can be read"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_padding_gets_some(tiny, tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "</s>"


def test_a_stored_policy_is_loaded_when_it_is_asked_and_let_go(tiny, policy_folder):
    policy = StoredPolicy("start", str(policy_folder), tiny.tokenizer(), torch.float32, torch.device("cpu"))
    assert policy._model is None
    model = policy.model
    assert not model.training
    assert policy.model is model
    policy.close()
    assert policy._model is None


def test_policies_by_their_place_in_the_run(finished_run):
    policies = ReachablePolicies(finished_run.module, 3)
    assert policies.named("previous").model is policies.named("current").model is finished_run.module.policy
    names = ["previous", "history/1", "history/2", "history/3", "anchor"]
    assert [policies.named(name).name for name in names] == ["round_002", "round_001", "round_000", "start", "start"]
    newest = policies.named("history/1")
    _ = newest.model
    assert policies.named("history/1") is newest
    policies.start()
    assert newest._model is None, "one stored policy in memory at a time"


def test_a_damaged_checkpoint_is_not_trained_on(finished_run, tmp_path):
    from sppo_lightning.training.checkpoint import AtomicCheckpointIO

    path = tmp_path / "last.ckpt"
    content = finished_run.module.run_folder.last_checkpoint.read_bytes()
    AtomicCheckpointIO().load_checkpoint(finished_run.module.run_folder.last_checkpoint)
    middle = len(content) // 2
    for damaged in (content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"last\.ckpt is damaged"):
            AtomicCheckpointIO().load_checkpoint(path)
