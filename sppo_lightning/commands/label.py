"""`python -m sppo_lightning label`: a page on which a person compares the pairs of responses that a run waits for."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.io.labels import WINNERS, LabelFolder

_PAGE = Path(__file__).with_name("label_page.html")
_HOST = "127.0.0.1"
_MAX_BYTES = 10_000


def main(argv: list[str]) -> int:
    """Runs the verb until Ctrl-C.

    Args:
        argv: the arguments behind `label`.

    Returns:
        0.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: the folder holds no tasks, or a malformed line.
    """
    parser = ArgumentParser(
        prog="python -m sppo_lightning label",
        description="Compare the pairs of responses that a run with data.oracle Human waits for.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=str, help="data.oracle.folder of the run")
    parser.add_argument("--port", type=int, default=8321, help="the page's port on 127.0.0.1; 0: any that is free")
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"label: {reason}; see python -m sppo_lightning label --help") from error
    folder = LabelFolder(options.folder)
    tasks, labels = folder.tasks(), folder.labels()
    if not tasks:
        raise DataError(
            f"{folder.tasks_file}: there are no tasks. A run with data.oracle Human writes them; is this its "
            "data.oracle.folder?"
        )
    open_tasks = len(tasks.keys() - labels.keys())
    if not open_tasks:
        print(f"all {len(tasks)} pairs in {folder.path} have a label; give the run's command again")
        return 0
    try:
        server = LabelServer(folder, options.port)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--port {options.port}: cannot be used on {_HOST} ({error}); take another, or 0 for any that is free"
        ) from error
    print(f"{open_tasks} of {len(tasks)} pairs to label: {server.address}  (Ctrl-C ends this)", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            left = len(folder.tasks().keys() - folder.labels().keys())
            print(f"\n{left} pairs are left" if left else "\nall pairs have a label; give the run's command again")
    return 0


class LabelServer(ThreadingHTTPServer):
    """Serves the page and takes labels, on 127.0.0.1 alone.

    The page's address holds a key, and nothing is answered without it or under another host's name, so that no other
    page that the person has open can read responses or send labels.

    Args:
        folder: tasks and labels.
        port: 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, folder: LabelFolder, port: int) -> None:
        self.folder, self.key = folder, secrets.token_urlsafe(12)
        super().__init__((_HOST, port), _Handler)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{_HOST}:{self.server_address[1]}/?key={self.key}"


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer

    def do_GET(self) -> None:
        """The page, or the tasks without a label."""
        if not self._is_allowed():
            return
        if self.path.startswith("/?"):
            nonce = secrets.token_urlsafe(12)
            page = _PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
            own = f"'nonce-{nonce}'"
            policy = f"default-src 'none'; img-src data:; connect-src 'self'; style-src {own}; script-src {own}"
            self._send(page, "text/html; charset=utf-8", policy)
        elif self.path.startswith("/tasks?"):
            try:
                tasks, labels = self.server.folder.tasks(), self.server.folder.labels()
            except DataError as error:
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
                return
            left = [asdict(task) for pair, task in tasks.items() if pair not in labels]
            self._send_json({"tasks": left, "labelled": len(tasks) - len(left)})
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """One label."""
        if not self._is_allowed():
            return
        length = self.headers.get("Content-Length", "")
        if not self.path.startswith("/label?") or not length.isdigit() or int(length) > _MAX_BYTES:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        try:
            label = json.loads(self.rfile.read(int(length)))
            pair, winner = label["pair"], label["winner"]
        except (ValueError, KeyError, TypeError):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if winner not in WINNERS or not isinstance(pair, str) or pair not in self.server.folder.tasks():
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.server.folder.answer(pair, winner)
        self._send_json({})

    def _is_allowed(self) -> bool:
        port = self.server.server_address[1]
        own = self.headers.get("Host") in (f"{_HOST}:{port}", f"localhost:{port}")
        key = self.path.partition("?key=")[2]
        allowed = own and secrets.compare_digest(key.encode(), self.server.key.encode())
        if not allowed:
            self.send_error(HTTPStatus.FORBIDDEN)
        return allowed

    def _send_json(self, answer: Any) -> None:
        self._send(json.dumps(answer), "application/json", "default-src 'none'")

    def _send(self, text: str, kind: str, policy: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(HTTPStatus.OK)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *words: Any) -> None:
        """Nothing: the terminal shows what is left, not each request."""
