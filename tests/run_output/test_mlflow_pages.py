"""What a person sees in a browser: MLflow's own pages of a run, and the run's report. Pictures are kept for looking."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from .browser import CHROMIUM, Tab, browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: MLflow's pages and the report go unseen")
LIST, RUN = (
    "/#/experiments/{}/runs?workflowType=machine_learning",
    "/#/experiments/{}/runs/{}{}?workflowType=machine_learning",
)
# Of MLflow's own pages, whatever the run: users are an extension, and browsers report this of most charts.
NOT_OURS = ("ajax-api/2.0/mlflow/users/current", "ResizeObserver loop")
# The text of a picture lies on neither its card nor the page's edge.
OVERFLOWING = """
[...document.querySelectorAll('body *')]
  .filter(each => !each.closest('.scroll, svg'))
  .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Where screenshots go: $SPPO_SCREENSHOTS, for someone who wants to look at them."""
    folder = Path(os.environ.get("SPPO_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def server(command_run) -> Iterator[str]:
    """MLflow's server on the run's database."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///runs/mlflow.db"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        command,
        cwd=command_run.folder,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while not _answers(address):
            assert process.poll() is None, "mlflow server ended"
            assert time.monotonic() < end, "mlflow server does not answer"
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _ids(command_run) -> tuple[str, str]:
    """Experiment and run, from the address that the command printed."""
    address = next(word for word in command_run.out.split() if "/#/experiments/" in word)
    parts = address.partition("?")[0].split("/")
    return parts[parts.index("experiments") + 1], parts[parts.index("runs") + 1]


def test_the_report_in_two_widths_by_day_and_by_night(command_run, pictures, tmp_path):
    report = command_run.folder / "runs/quickstart/report.html"

    async def look() -> None:
        async with browser(tmp_path) as tab:
            for width in (1280, 480):
                for dark in (False, True):
                    await tab.look(width, 900, dark)
                    await tab.open(report.as_uri())
                    await tab.until(
                        "document.readyState == 'complete' && document.querySelectorAll('figure svg').length > 3"
                    )
                    assert await tab.value(OVERFLOWING) == []
                    ink, paper = await tab.value(
                        "[getComputedStyle(document.querySelector('figure svg')).color,"
                        " getComputedStyle(document.body).backgroundColor]"
                    )
                    assert (_lightness(ink) > 0.7, _lightness(paper) < 0.3) == (dark, dark)
                    columns = await tab.value(
                        "getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"
                    )
                    assert columns == (2 if width == 1280 else 1)
                    await tab.screenshot(pictures / f"report_{width}_{'dark' if dark else 'light'}.png")
            assert await tab.value("document.scripts.length") == 0
            shown = await tab.text()
            for title in ("In numbers", "Win rate on held-out prompts", "Answers side by side", "token by token"):
                assert title in shown
            assert tab.errors == []

    asyncio.run(look())


def test_mlflows_pages_of_the_run(command_run, server, pictures, tmp_path):
    experiment, run = _ids(command_run)

    async def look() -> None:
        async with browser(tmp_path) as tab:
            await tab.look(1280, 1000)
            await _see(tab, server + LIST.format(experiment), "document.body?.innerText?.includes('quickstart')")
            await tab.screenshot(pictures / "mlflow_runs.png", whole=False)

            await _see(tab, server + RUN.format(experiment, run, ""), "document.querySelector('table')")
            await tab.until(
                "document.body.innerText.includes('prompts.jsonl') && document.body.innerText.includes('vs start')"
            )
            await tab.screenshot(pictures / "mlflow_run.png", whole=False)

            await _see(
                tab,
                server + RUN.format(experiment, run, "/model-metrics"),
                "document.querySelector('.js-plotly-plot path')",
            )
            for group in ("cost", "round", "time", "train"):
                await tab.until(f"/(^|\\n){group}\\s*\\(\\d+\\)/.test(document.body.innerText)")
            await tab.screenshot(pictures / "mlflow_charts.png", whole=False)

            for artifact, there in {
                "report.html": "document.querySelector('iframe')",
                "figures/win_rates.svg": "[...document.querySelectorAll('img')].some(each => each.naturalWidth > 300)",
                "tables/samples_round_001.json": "document.body.innerText.includes('best win rate')",
            }.items():
                await _see(tab, server + RUN.format(experiment, run, f"/artifacts/{artifact}"), there)
                await asyncio.sleep(1)  # painted after it is there
                await tab.screenshot(pictures / f"mlflow_{Path(artifact).stem}.png", whole=False)
            assert [error for error in tab.errors if not any(known in error for known in NOT_OURS)] == []

    asyncio.run(look())


async def _see(tab: Tab, address: str, there: str) -> None:
    await tab.open("about:blank")  # from one part of a page to another nothing would be loaded
    await tab.open(address)
    await tab.until(there)


def _lightness(colour: str) -> float:
    """Of "rgb(13, 17, 23)", in [0, 1]."""
    return sum(float(part) for part in colour[colour.index("(") + 1 :].rstrip(")").split(",")[:3]) / 3 / 255
