"""The page on which people compare responses, as they see it: two widths, day and night, by keyboard."""

import asyncio
import threading

import pytest

from sppo_lightning.commands.label import LabelServer
from sppo_lightning.io.labels import LabelFolder, Task

from .browser import CHROMIUM, browser

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me about <b>the kettle</b>."}]
TEXTS = [
    "It is a kettle.",
    "<script>document.title = 'broken'</script> A kettle\n\nboils " + "water " * 400,
    "\u706f\u53f0" + "w" * 300,
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_person_labels_by_keyboard(tmp_path):
    folder = LabelFolder(tmp_path / "labels")
    folder.ask([Task.of(PROMPT, TEXTS[i], TEXTS[j]) for i, j in ((0, 1), (0, 2), (1, 2))])

    async def person(server):
        (tmp_path / "profile").mkdir()
        async with browser(tmp_path / "profile") as tab:
            await tab.look(1280, 900)
            await tab.open(server.address)
            await tab.until("document.getElementById('count').textContent == '0 of 3 labelled'")
            assert "Tell me about <b>the kettle</b>." in await tab.text()
            for look in ((1280, 900, False), (1280, 900, True), (390, 844, False), (390, 844, True)):
                await tab.look(*look)
                await tab.screenshot(tmp_path / f"label_{look[0]}_{'dark' if look[2] else 'light'}.png", whole=False)
                assert await tab.value("document.documentElement.scrollWidth <= window.innerWidth")
                # The choices can be seen without scrolling.
                assert await tab.value(
                    "document.querySelector('.choices').getBoundingClientRect().bottom <= innerHeight"
                )
            for count, key in enumerate(("ArrowLeft", "2", "t"), 1):
                await tab.call("Input.dispatchKeyEvent", type="keyDown", key=key)
                await tab.until(f"document.getElementById('count').textContent == '{count} of 3 labelled'")
            await tab.until("!document.getElementById('done').hidden")
            await tab.call("Input.dispatchKeyEvent", type="keyDown", key="u")
            await tab.until("!document.getElementById('task').hidden")
            await tab.value("document.querySelector('[data-winner=skip]').click()")
            await tab.until("!document.getElementById('done').hidden")
            assert await tab.value("document.title") == "Which response is better?"
            assert tab.errors == []

    with LabelServer(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        asyncio.run(person(server))
        server.shutdown()
        thread.join()
    assert list(folder.labels().values()) == ["first", "second", "skip"]
    assert len(folder.labels_file.read_text().splitlines()) == 4
