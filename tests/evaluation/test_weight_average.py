"""The average of weights is the average, is a policy's folder, and is refused where there is nothing to average."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sppo_lightning.errors import DataError, RunFolderError
from sppo_lightning.evaluation.mixture import Mixture
from sppo_lightning.evaluation.weight_average import average_weights
from sppo_lightning.training.progress import NullProgress


@pytest.fixture
def policy(tmp_path):
    """policy(name, tensors, shards=) -> a folder with these weights."""

    def policy(name, tensors, shards=1):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"from": name}))
        (folder / "README.md").write_text("whose card?")
        names = sorted(tensors)
        for shard in range(shards):
            save_file({key: tensors[key] for key in names[shard::shards]}, folder / f"model-{shard}.safetensors")
        if shards > 1:
            (folder / "model.safetensors.index.json").write_text("{}")
        return str(folder)

    return policy


def tensors(value, dtype=torch.float32):
    return {"a": torch.full((2, 3), value, dtype=dtype), "b": torch.tensor([value, 2 * value], dtype=dtype)}


def test_means_by_weight_in_the_weights_own_type(policy, tmp_path):
    members = {
        policy("one", tensors(1.0, torch.bfloat16)): 0.25,
        policy("two", tensors(3.0, torch.bfloat16), shards=2): 0.75,
        policy("three", {"other": torch.zeros(1)}): 0.0,
    }
    folder = average_weights(Mixture(members=members), tmp_path / "average", NullProgress())
    found = load_file(folder / "model.safetensors")
    assert found["a"].dtype == torch.bfloat16
    assert found["a"].tolist() == [[2.5] * 3] * 2
    assert found["b"].tolist() == [2.5, 5.0]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == {"from": "two"}


def test_a_real_policy_averaged_with_itself_is_itself(policy_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = average_weights(Mixture.uniform([str(policy_folder)]), tmp_path / "average", NullProgress())
    ours, theirs = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (folder, policy_folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_cannot_be_averaged(policy, tmp_path):
    one = policy("one", tensors(1.0))
    other = policy("other", {"a": torch.zeros(2, 4), "b": torch.zeros(2)})
    with pytest.raises(DataError, match=r"another architecture.* a has shape \[2, 3\].* \[2, 4\]"):
        average_weights(Mixture.uniform([one, other]), tmp_path / "x", NullProgress())
    with pytest.raises(DataError, match="owner/model: is no folder"):
        average_weights(Mixture.uniform([one, "owner/model"]), tmp_path / "x", NullProgress())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no safetensors weights"):
        average_weights(Mixture.uniform([one, str(tmp_path / "empty")]), tmp_path / "x", NullProgress())
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        average_weights(Mixture.uniform([one, str(tmp_path / "empty")]), tmp_path / "x", NullProgress())
    with pytest.raises(RunFolderError, match="exists already"):
        average_weights(Mixture.uniform([one]), tmp_path / "other", NullProgress())
