"""A real vLLM server on 127.0.0.1, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

NAME = "policy"


class VLLMServer:
    """`python -m vllm.entrypoints.openai.api_server` in a process group of its own.

    Attributes:
        url: the address for a configuration.
        log: what all its processes said, over all starts.
    """

    def __init__(self, policy: Path, tokenizer: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._policy, self._tokenizer, self._log = policy, tokenizer, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self, timeout_s: float = 1200) -> None:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--host", "127.0.0.1", "--port", str(self._port), "--served-model-name", NAME]
        command += ["--model", str(self._policy), "--tokenizer", str(self._tokenizer), "--dtype", "float32"]
        command += ["--enforce-eager", "--max-model-len", "512", "--gpu-memory-utilization", "0.01"]
        settings = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        give_up = time.monotonic() + timeout_s
        while not self._is_healthy():
            assert self._process.poll() is None, f"the server ended: {self.log[-3000:]}"
            assert time.monotonic() < give_up, f"the server does not start: {self.log[-3000:]}"
            time.sleep(0.25)

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, sign)
            self._process.wait(60)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self.url.replace("/v1", "/health"), timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False
