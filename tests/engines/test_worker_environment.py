import pytest
import torch

from sppo_lightning.engines import OpenAIServer
from sppo_lightning.engines.worker_environment import device_groups, worker_environment
from sppo_lightning.errors import ConfigError
from sppo_lightning.io.secrets import KEY_VARIABLES


def test_the_parents_place_among_processes_and_its_keys_stay_behind(monkeypatch):
    hidden = {
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "x",
        "PL_GLOBAL_SEED": "3",
        "SPPO_CRASH_AT": "x:1",
        "OPENAI_API_KEY": "sk-0",
        "SOME_PASSWORD": "x",
        "PGPASSWORD": "x",
        "DATABASE_URL": "postgresql://me:x@host/db",
        "MLFLOW_TRACKING_URI": "https://me:x@host",
        "AWS_ACCESS_KEY_ID": "x",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    }
    kept = {
        "HF_HOME": "/models",
        "HF_TOKEN": "hf_x",
        "HF_HUB_OFFLINE": "1",
        "HUGGING_FACE_HUB_TOKEN": "hf_y",
        "VLLM_CACHE_ROOT": "/c",
        "VLLM_CPU_OMP_THREADS_BIND": "0-3",
        "RANKING": "a",
        "MLFLOW_REGISTRY_URI": "https://host:5000",
        "SSH_CONNECTION": "10.0.0.1 22",
        "PYTHONPATH": "/here",
    }
    for name, value in (hidden | kept).items():
        monkeypatch.setenv(name, value)
    environment = worker_environment(None, own_interpreter=True)
    assert not hidden.keys() & environment.keys()
    assert kept.items() <= environment.items()
    assert environment["OMP_NUM_THREADS"] == str(torch.get_num_threads())
    assert environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert "PYTHONPATH" not in worker_environment(None, own_interpreter=False)


def test_the_variable_of_a_judges_key_stays_behind_whatever_it_is_called(monkeypatch):
    monkeypatch.setenv("MY_JUDGE", "x")
    assert "MY_JUDGE" in worker_environment(None, own_interpreter=True)
    OpenAIServer(api_key_env="MY_JUDGE")
    assert "MY_JUDGE" not in worker_environment(None, own_interpreter=True)
    KEY_VARIABLES.discard("MY_JUDGE")


@pytest.fixture
def gpus(monkeypatch):
    """gpus(count, visible, of_this_process): a machine of GPUs, as PyTorch tells of it."""

    def gpus(count, visible=None, mine=None):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: mine)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: mine is not None)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: count)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return gpus


@pytest.mark.parametrize(
    ("machine", "size", "groups"),
    [
        ((0,), 1, [None]),
        ((4,), 1, ["0", "1", "2", "3"]),
        ((4,), 2, ["0,1", "2,3"]),
        ((3,), 2, ["0,1"]),
        ((2, "5,GPU-abc"), 1, ["5", "GPU-abc"]),
        ((2, "5,7"), 2, ["5,7"]),
        ((4, None, 2), 1, ["2"]),
        ((2, "5,7", 1), 1, ["7"]),
    ],
)
def test_one_worker_a_gpu_or_group(gpus, machine, size, groups):
    gpus(*machine)
    assert device_groups(size) == groups
    for devices in groups:
        seen = worker_environment(devices, own_interpreter=True).get("CUDA_VISIBLE_DEVICES")
        assert seen == devices


@pytest.mark.parametrize(("machine", "size"), [((0,), 2), ((2,), 4), ((4, None, 2), 2)])
def test_too_few_gpus_are_refused(gpus, machine, size):
    gpus(*machine)
    with pytest.raises(ConfigError, match=rf"data\.engine\.tensor_parallel_size={size}"):
        device_groups(size)
