"""An OpenAI-compatible chat server on 127.0.0.1 that answers by a script, and notes what it was asked."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RESPONSES = re.compile(r"\[Response A\]\n(.*?)\n\[End of response A\]\n\n\[Response B\]\n(.*?)\n\[End", re.DOTALL)


@dataclass
class Reply:
    """What goes out: `body` as JSON, or `raw` as it is.

    `hangs_s` keeps the client waiting; `cut` breaks off; `drips_s` passes between two bytes.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    hangs_s: float = 0.0
    cut: bool = False
    drips_s: float = 0.0


def chat(content: str | None, top: dict[str, float] | None = None, model: str = "judge", **message: Any) -> Reply:
    """A chat completion; `top` gives the log-probabilities of the alternatives to its only token."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    choice["message"] = {"role": "assistant", "content": content} | message
    if top is not None:
        alternatives = [{"token": token, "logprob": logp, "bytes": list(token.encode())} for token, logp in top.items()]
        choice["logprobs"] = {"content": [{"token": content, "logprob": 0.0, "top_logprobs": alternatives}]}
    return Reply(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [choice],
            "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101},
        }
    )


def shown(request: dict[str, Any]) -> tuple[str, str]:
    """The two responses in a request, in the order in which the judge sees them."""
    found = RESPONSES.search(request["messages"][-1]["content"])
    assert found is not None
    return found[1], found[2]


def longer(request: dict[str, Any]) -> Reply:
    """A fair judge: the longer response is better."""
    first, second = shown(request)
    return chat("A" if (len(first), first) > (len(second), second) else "B")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with 5, connections in a burst are dropped and come again after a second


class ScriptedServer:
    """Answers every POST with `script(request)`; `GET /v1/models` lists `model`.

    Attributes:
        requests: the bodies of all POSTs, in order of arrival.
        keys: the Authorization headers.
        url: the address that a configuration names.
    """

    def __init__(self, script: Callable[[dict[str, Any]], Reply], port: int = 0) -> None:
        self.script = script
        self.model = "judge"
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(Reply({"object": "list", "data": [{"id": outer.model, "object": "model"}]}))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(request)
                    outer.keys.append(self.headers["Authorization"])
                    outer.busy += 1
                    outer.most_busy = max(outer.most_busy, outer.busy)
                try:
                    self._send(outer.script(request))
                finally:
                    with outer._lock:
                        outer.busy -= 1

            def _send(self, reply: Reply) -> None:
                time.sleep(reply.hangs_s)
                body = json.dumps(reply.body).encode() if reply.raw is None else reply.raw
                try:
                    self.send_response(reply.status)
                    self.send_header("Content-Type", "application/json")
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body) + 99 * reply.cut))
                    self.end_headers()
                    for piece in [bytes([byte]) for byte in body] if reply.drips_s else [body]:
                        self.wfile.write(piece)
                        time.sleep(reply.drips_s)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client stopped waiting

            def log_message(self, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
