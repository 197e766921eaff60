"""A real vLLM server on 127.0.0.1, which can be killed and started again, and one that answers what it is told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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


class FakeServer:
    """A server of one model that answers `POST <path>` with `answers[path]`: (status, JSON).

    Attributes:
        url: the address for a configuration.
        answers: the answers; other paths are not found. May be changed at any time.
        metrics: what it says of itself.
        posts: the paths that were asked for, in order.
    """

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {}
        self.metrics = "process_start_time_seconds 1.5\n"
        self.posts: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/v1/models":
                    card = {"id": "m", "root": "/somewhere", "max_model_len": 128}
                    self._send(200, {"object": "list", "data": [card]})
                else:
                    self._send(200, outer.metrics)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                outer.posts.append(self.path)
                self._send(*outer.answers.get(self.path, (404, {"error": {"message": "Not Found"}})))

            def _send(self, status: int, body: object) -> None:
                raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client stopped waiting
                    self.send_response(status)
                    self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
                    self.send_header("Content-Length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(token_ids: list[int] | None, **choice: Any) -> tuple[int, object]:
    """A `FakeServer`'s answer of one response."""
    choice = {"index": 0, "text": "x", "finish_reason": "stop", "token_ids": token_ids} | choice
    choice.setdefault("logprobs", {"token_logprobs": [-1.0] * len(token_ids or [])})
    return 200, {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
