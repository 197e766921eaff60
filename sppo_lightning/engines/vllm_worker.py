"""The worker process of `engines.VLLM`: `python vllm_worker.py SCRATCH_FOLDER PARENT_ID`.

Run by its path and by any interpreter that has vLLM, so it imports nothing of this package. `worker_process.py` is the
other end and says what lies in the scratch folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_GIB = 1024**3
_ZOMBIE = "zombie"


class Worker:
    """vLLM with one policy, and another one from the question on that names it.

    Args:
        settings: `model`, `version`, `dtype`, `max_model_len`, `tensor_parallel_size`, `gpu_memory_utilization` (or
            None) and `enforce_eager`.
        alive: is touched at every step.
    """

    def __init__(self, settings: Mapping[str, Any], alive: Path) -> None:
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        self._alive = alive
        self._version: int = settings["version"]
        arguments: dict[str, Any] = {
            "model": settings["model"],
            "dtype": settings["dtype"],  # "auto" would turn float32 into bfloat16
            "max_model_len": settings["max_model_len"],
            "tensor_parallel_size": settings["tensor_parallel_size"],
            "skip_tokenizer_init": True,  # token ids in, token ids out
            "generation_config": "vllm",  # nothing of the policy's own sampling settings takes part
            "enable_prefix_caching": True,  # the K responses to a prompt share its prefill
            "disable_log_stats": True,
            "seed": 0,
        }
        share = settings["gpu_memory_utilization"]
        if torch.cuda.is_available():
            arguments |= {
                "gpu_memory_utilization": share or _free_share(settings["tensor_parallel_size"]),
                "enforce_eager": settings["enforce_eager"],
            }
        else:
            tokens = max(settings["max_model_len"], 8192)
            arguments |= {
                "kv_cache_memory_bytes": _cache_bytes(share),
                "enforce_eager": True,  # compiling takes longer than it ever saves
                # A part of a prompt draws from its seed's stream and puts the draw back, which CPU generators cannot.
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": tokens,
            }
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)

    def answer(self, question: Mapping[str, Any]) -> list[tuple[list[int], float]]:
        """Samples a response for each of `question["requests"]`, which are (number of the prompt, seed).

        Returns:
            (token ids, summed log-probability at temperature 1) in the order of the requests.
        """
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        self._load(question["model"], question["version"])
        for number, (prompt, seed) in enumerate(question["requests"]):
            params = SamplingParams(
                **question["sampling"],
                seed=seed,
                stop_token_ids=question["stop_token_ids"],
                logprobs=0,  # of the sampled token alone
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self._engine.add_request(str(number), tokens_input(question["prompts"][prompt]), params)
        answers: dict[int, tuple[list[int], float]] = {}
        while self._engine.has_unfinished_requests():
            outputs: list[Any] = self._engine.step()
            for output in outputs:
                (response,) = output.outputs
                answers[int(output.request_id)] = list(response.token_ids), response.cumulative_logprob
            self._alive.touch()
        return [answers[number] for number in range(len(question["requests"]))]

    def close(self) -> None:
        """Ends vLLM's own processes, where it has any."""
        self._engine.engine_core.shutdown()

    def _load(self, model: str, version: int) -> None:
        """Takes another policy of the same shape into the place of the one before."""
        if version == self._version:
            return
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": model})
        # Or a prompt would be continued from what the policy before made of it.
        self._engine.reset_prefix_cache()
        self._version = version


def _free_share(num_devices: int) -> float:
    """Nine tenths of the GPU memory that nobody uses, as a share of all."""
    import torch

    memory = [torch.cuda.mem_get_info(device) for device in range(num_devices)]
    return min(0.9 * free / total for free, total in memory)


def _cache_bytes(share: float | None) -> int:
    """The size of the key-value cache in main memory."""
    import psutil

    memory = psutil.virtual_memory()
    return int(share * memory.total) if share else min(4 * _GIB, memory.available // 10)


def _die_with(parent: int, folder: Path) -> None:
    """Ends this process group once the parent is gone, however it went.

    Not by PR_SET_PDEATHSIG, which watches the thread that started this process and not the parent; nor by getppid,
    which is a wrapper's where one started the interpreter.
    """
    started = _start_of(parent)
    while _lives(parent) and _start_of(parent) == started != _ZOMBIE:
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _lives(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _start_of(process_id: int) -> str:
    """When a process was started, in ticks since boot: its id may be given to another. "" off Linux.

    A parent that was killed while its own parent does not look stays a zombie, and is as good as gone.
    """
    try:
        # pid (name) state ...; the name may hold anything. The start is field 22.
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return _ZOMBIE if fields[0] in "ZX" else fields[19]


def _write(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def _serve(folder: Path) -> None:
    """Answers questions until there is a file `stop`."""
    starting = True
    try:
        worker = Worker(json.loads((folder / "settings.json").read_bytes()), folder / "alive")
        starting = False
        number = 1
        while not (folder / "stop").exists():
            question = folder / f"question_{number}.json"
            if question.exists():
                _write(folder / f"answer_{number}.json", worker.answer(json.loads(question.read_bytes())))
                number += 1
            else:
                time.sleep(0.01)
        worker.close()
    except Exception as error:
        _write(folder / "failed.json", {"error": f"{type(error).__name__}: {error}", "starting": starting})
        raise


if __name__ == "__main__":
    scratch, parent_id = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_die_with, args=(parent_id, scratch), daemon=True).start()
    _serve(scratch)
    sys.stdout.flush()
    os._exit(0)  # the interpreter's own end takes seconds, and what it tears down dies with the process
