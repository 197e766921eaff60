"""A real headless Chromium, driven over its debugging port: nothing to install but the browser itself."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_PATIENCE_S = 90.0


class Tab:
    """One tab. `errors` collects what the console shows as errors, and uncaught exceptions."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._count = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listener = asyncio.create_task(self._listen())

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        self._count += 1
        answer = self._answers[self._count] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        return await asyncio.wait_for(answer, _PATIENCE_S)

    async def open(self, url: str) -> None:
        """Goes to an address."""
        await self.call("Page.navigate", url=url)

    async def value(self, script: str) -> Any:
        """What an expression is worth in the page."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script: str, patience_s: float = _PATIENCE_S) -> None:
        """Waits until an expression is true; pages are built while one waits.

        A page between two documents has no body, and no context to evaluate in: an expression that fails there is one
        that is not true yet.
        """
        end = time.monotonic() + patience_s
        while True:
            answer = await self.call("Runtime.evaluate", expression=f"Boolean({script})", returnByValue=True)
            if answer.get("result", {}).get("value") is True:
                return
            assert time.monotonic() < end, f"not true after {patience_s} s: {script}; {answer}; {await self.text()}"
            await asyncio.sleep(0.5)

    async def text(self) -> str:
        """What a person can read."""
        return await self.value("document.body ? document.body.innerText : ''")

    async def look(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the window, and whether it is night."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.call("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path, whole: bool = True) -> Path:
        """A picture of the page, `whole` or what the window shows."""
        picture = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))
        return path

    async def close(self) -> None:
        """Stops listening."""
        self._listener.cancel()
        with suppress(asyncio.CancelledError):
            await self._listener

    async def _listen(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event.get("result", {"error": event.get("error")}))
            elif event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] == "error":
                self.errors.append(" ".join(str(each.get("value", each)) for each in event["params"]["args"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                entry = event["params"]["entry"]
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Tab]:
    """Starts Chromium with an empty profile, and ends it.

    Args:
        profile: an empty folder for it.
    """
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                address = json.loads(await answer.text())["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await tab.call(f"{domain}.enable")
                yield tab
                await tab.close()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _port(file: Path) -> int:
    end = time.monotonic() + _PATIENCE_S
    while not (file.is_file() and file.read_text().count("\n")):
        assert time.monotonic() < end, f"Chromium did not start: no {file}"
        await asyncio.sleep(0.2)
    return int(file.read_text().splitlines()[0])
