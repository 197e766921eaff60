"""An engine that reads a policy's folder is given the weights in memory, also where the run exports none."""

import torch

from sppo_lightning.engines import Transformers
from sppo_lightning.io.files import TEMPORARY_SUFFIX
from sppo_lightning.objectives import EGPO, SPPO
from sppo_lightning.selfplay.opponents import CurrentPolicy, SelfPlay
from sppo_lightning.selfplay.pairing import All
from sppo_lightning.training.policy import StoredPolicy
from sppo_lightning.training.schedules import HalfStep


class FromFolder(Transformers):
    """Answers as `VLLM` does: with what lies in the folder, on disk by itself."""

    reads_folder = True

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.opened = []

    def open(self, policy):
        self.opened.append((policy.name, policy.folder))
        on_disk = StoredPolicy(policy.name, policy.folder, policy.tokenizer, policy.dtype, torch.device("cpu"))
        on_disk.model.to(torch.float32)
        for (name, there), here in zip(
            on_disk.model.state_dict().items(), policy.model.state_dict().values(), strict=True
        ):
            assert torch.equal(there, here), name
        super().open(on_disk)


def half_steps():
    module = {"objective": EGPO(tau=0.1, eta=2.0), "schedule": HalfStep()}
    return module, {"opponent": CurrentPolicy(), "pairing": All()}


def rare_exports():
    return {"objective": SPPO(eta=2.0)}, {"opponent": SelfPlay(), "export_every": 3}


def trained(tiny, folder, policy_folder, method, engine, num_rounds):
    module, data = method()
    run = tiny.make_run(folder, policy_folder, None, module, engine=engine, num_rounds=num_rounds, **data).fit()
    return run.module.policy.state_dict()


def check(tiny, tmp_path, policy_folder, method, num_rounds):
    """Runs a method with both engines; returns what the one that reads folders was opened with."""
    engine = FromFolder(max_new_tokens=16)
    weights = trained(tiny, tmp_path / "folder", policy_folder, method, engine, num_rounds)
    expected = trained(tiny, tmp_path / "memory", policy_folder, method, Transformers(max_new_tokens=16), num_rounds)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not list((tmp_path / "folder").rglob(f"*{TEMPORARY_SUFFIX}"))
    return engine.opened


def test_the_half_step_is_read_from_a_scratch_export(tiny, tmp_path, policy_folder):
    opened = check(tiny, tmp_path, policy_folder, half_steps, 1)
    assert [name for name, folder in opened if folder.endswith(TEMPORARY_SUFFIX)] == ["round_000/half"]


def test_a_round_without_export_is_read_from_a_scratch_export(tiny, tmp_path, policy_folder):
    opened = check(tiny, tmp_path, policy_folder, rare_exports, 3)
    assert [(name, folder.endswith(TEMPORARY_SUFFIX)) for name, folder in opened] == [
        ("start", False),
        ("round_000", True),
        ("round_001", True),
    ]
