"""Open pages in a real browser: all see an acknowledgement, and nobody loses what they are writing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.web import layout
from tests.conftest import need
from tests.web.site import Site, serving

pytestmark = pytest.mark.rig


class Tab:
    """One open page, by the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        self._calls += 1
        call = {"id": self._calls, "method": "Runtime.evaluate"}
        await self._socket.send_json(
            {**call, "params": {"expression": script, "returnByValue": True, "awaitPromise": True}}
        )
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == self._calls:
                assert "exceptionDetails" not in answer["result"], answer
                return answer["result"]["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until the expression is true."""
        while not await self.run(script):  # noqa: ASYNC110 - the browser tells nobody
            await asyncio.sleep(0.02)


class Browser:
    """A headless browser over a site."""

    def __init__(self, site: Site, port: int) -> None:
        self._site = site
        self._base = f"http://127.0.0.1:{port}"
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []

    async def open(self, path: str) -> Tab:
        session = self._site.session
        async with session.put(f"{self._base}/json/new?{self._site.url(path)}") as answer:
            target = await answer.json(content_type=None)
        socket = await session.ws_connect(target["webSocketDebuggerUrl"])
        self._sockets.append(socket)
        tab = Tab(socket)
        await tab.until("document.readyState === 'complete' && !!document.querySelector('main')")
        return tab

    async def close(self) -> None:
        for socket in self._sockets:
            await socket.close()


@contextlib.asynccontextmanager
async def browsing(site: Site, home: Path) -> AsyncIterator[Browser]:
    process = await asyncio.create_subprocess_exec(
        need("chromium"),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={home}"),
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        told = home / "DevToolsActivePort"
        while not told.exists() or "\n" not in told.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        browser = Browser(site, int(told.read_text().split()[0]))
        yield browser
        await browser.close()
    finally:
        process.terminate()
        await process.wait()


def run(tmp_path: Path, scene: Callable[[Site, Browser], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60), serving(tmp_path) as site:
            site.barn.on_move = site.server.live.push
            async with browsing(site, tmp_path / "browser") as browser:
                await scene(site, browser)

    asyncio.run(bounded())


def test_two_open_pages_see_an_acknowledgement_and_typing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "REFRESH_S", 3600)  # only the live stream can have told them

    async def scene(site: Site, browser: Browser) -> None:
        number = await site.barn.raise_alert()
        pages = [await browser.open("/"), await browser.open(f"/alerts/{number}"), await browser.open("/")]
        while site.server.live.pages_n < len(pages):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        writing = pages[2]
        note = f"document.querySelector('#say-{number} input[name=note]')"
        await writing.run(f"{note}.focus(); {note}.value = 'half a sen'")
        await site.send(f"/api/alerts/{number}/acknowledge", {"by": "Anna"})
        for page in pages:
            await page.until(
                "document.querySelector('main').innerText.includes('acknowledged by Anna (web)')"
            )
        assert await writing.run(f"document.activeElement === {note} && {note}.value") == "half a sen"
        assert await pages[0].run("document.querySelectorAll('button.first').length") == 1
        assert await pages[0].run("document.getElementById('stale').hidden") is True
        await site.server.stop()
        await pages[0].run("refresh()")
        await pages[0].until("!document.getElementById('stale').hidden")

    run(tmp_path, scene)


def test_the_button_of_the_page_acknowledges_and_the_next_page_knows_the_name(tmp_path: Path) -> None:
    async def scene(site: Site, browser: Browser) -> None:
        number = await site.barn.raise_alert()
        page = await browser.open("/")
        form = f"document.querySelector('#say-{number}')"
        await page.run(
            f"{form}.querySelector('[name=by]').value = 'Anna'; {form}.querySelector('button').click()"
        )
        await page.until("document.querySelector('main')?.innerText.includes('acknowledged by Anna (web)')")
        assert await page.run(f"{form}.querySelector('[name=by]').value") == "Anna"

    run(tmp_path, scene)
