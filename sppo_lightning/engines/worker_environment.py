"""What a worker process of an engine gets to see: its devices, and the environment without its parent's affairs."""

from __future__ import annotations

import os
import re

import torch

from sppo_lightning.errors import ConfigError
from sppo_lightning.io.secrets import KEY_VARIABLES, is_secret_name, redact

# The parent's place among the processes of a run; a worker that took it for its own would wait for the others.
_RANKS = re.compile(
    r"MASTER_(ADDR|PORT)|((LOCAL_|GROUP_|NODE_|ROLE_)?(RANK|WORLD_SIZE|NAME))|(TORCHELASTIC|PL|SPPO)_.*"
    r"|VLLM_ALLOW_INSECURE_SERIALIZATION"
)
# Where a policy comes from by its hub id, and whether it may be fetched.
_HUB = re.compile(r"(HF|HUGGING_FACE)_.*")


def device_groups(size: int) -> list[str | None]:
    """The devices of this process's workers, as each one's CUDA_VISIBLE_DEVICES; [None] on a machine without GPUs.

    One process of several plays on the GPU it trains on; a process alone plays on all that it sees.

    Args:
        size: GPUs a worker.

    Raises:
        ConfigError: there are not as many.
    """
    count = torch.cuda.device_count()
    if count == 0:
        if size > 1:
            raise ConfigError(
                f"data.engine.tensor_parallel_size={size}: this process sees no GPU; leave it out to play on the CPU"
            )
        return [None]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(index) for index in range(count)]
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        names = [names[torch.cuda.current_device()]]
    if size > len(names):
        raise ConfigError(
            f"data.engine.tensor_parallel_size={size} is more than the {len(names)} GPUs of this process. Where "
            "several processes train, each plays on its own GPU: lower it, or serve the policy elsewhere by "
            "data.engine OpenAIServer"
        )
    return [",".join(names[begin : begin + size]) for begin in range(0, len(names) - size + 1, size)]


def worker_environment(devices: str | None, own_interpreter: bool) -> dict[str, str]:
    """The environment of a worker.

    Args:
        devices: its GPUs, from `device_groups`.
        own_interpreter: False where another interpreter runs it: what points to this one's packages is left out.
    """
    foreign = () if own_interpreter else ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {
        name: value
        for name, value in os.environ.items()
        if _HUB.fullmatch(name) or not (_RANKS.fullmatch(name) or name in foreign or _is_secret(name, value))
    }
    environment |= {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONUNBUFFERED": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    # Bound to cores, two workers of one machine would share the same ones.
    environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    return environment


def _is_secret(name: str, value: str) -> bool:
    """By its name, also as one half of a pair (..._KEY_ID), or by what it holds, a DATABASE_URL with one."""
    return (
        name in KEY_VARIABLES
        or is_secret_name(name)
        or is_secret_name(name.removesuffix("_ID"))
        or redact(value) != value
    )
