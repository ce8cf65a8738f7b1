"""A real server on a real socket over a real alarm and store, and a client for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from gateway.core.message_stats import MessageStats
from gateway.web.server import WebServer
from gateway.web.status import BrokerStatus, GatewayStatus, StoreStatus
from tests.alert_desk import Barn, barn

LINK_SECRET = bytes(range(32))


class Site:
    """The barn, its server and a browser without scripts."""

    def __init__(self, place: Barn, server: WebServer, session: aiohttp.ClientSession) -> None:
        self.barn = place
        self.server = server
        self.session = session

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    async def get(self, path: str, status: int = 200) -> str:
        async with self.session.get(self.url(path)) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return text

    async def send(
        self, path: str, body: Any, status: int = 200, method: str = "POST", **headers: str
    ) -> Any:
        """As a program does; the JSON of the answer."""
        async with self.session.request(method, self.url(path), json=body, headers=headers) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def submit(self, path: str, fields: dict[str, str], status: int = 303, **headers: str) -> str:
        """As a form of this server's page does."""
        origin = {"Origin": self.url(""), **headers}
        async with self.session.post(
            self.url(path), data=fields, headers=origin, allow_redirects=False
        ) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return text


def status_of(place: Barn) -> GatewayStatus:
    return GatewayStatus(
        gateway_id="gw-1",
        version="1.0.0",
        now_ms=place.clock.now_ms(),
        uptime_s=61.0,
        broker=BrokerStatus(listening=True, port=1883, connections=3),
        store=StoreStatus(place.path, 123_456, writable=True),
        messages=MessageStats(),
        panel="all well",
        clock_trusted=True,
    )


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, **options: Any) -> AsyncIterator[Site]:
    async with barn(tmp_path) as place:
        server = WebServer(
            lambda: status_of(place),
            place.database,
            desk=place.alarm,
            link_secret=LINK_SECRET,
            names=("gw.example.com",),
            **options,
        )
        await server.start(port=0)
        try:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
                yield Site(place, server, session)
        finally:
            await server.stop()


def run(tmp_path: Path, scene: Callable[[Site], Awaitable[None]], **options: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20), serving(tmp_path, **options) as site:
            await scene(site)
        await asyncio.sleep(0)  # what was cancelled last needs a turn to end
        assert asyncio.all_tasks() == {asyncio.current_task()}, asyncio.all_tasks()

    asyncio.run(bounded())
