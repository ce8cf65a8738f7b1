"""Real receivers of notifications: an SMTP server and an HTTP server on loopback ports."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP


class MailBox:
    """An SMTP server in the running loop; may be closed and opened again on the same port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.got: list[EmailMessage] = []
        self.refused: set[str] = set()
        self._server: asyncio.Server | None = None
        self._arrived = asyncio.Condition()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Any, envelope: Any) -> str:  # noqa: N802
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        async with self._arrived:
            self._arrived.notify_all()
        return "250 OK"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="mail.test", loop=loop), "127.0.0.1", self.port
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def until(self, n: int) -> None:
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.got) >= n)

    def subjects(self) -> list[str]:
        return [str(message["Subject"]) for message in self.got]

    def ids(self) -> list[str]:
        return [str(message["X-Artemis-Message-ID"]) for message in self.got]

    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.port}/?mode=insecure&from=barn%40example.org&to={{to}}"


class Webhook:
    """An HTTP server that takes JSON; `answer` decides the status, `hang` holds a request until released."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.got: list[dict[str, Any]] = []
        self.requests = 0
        self.answer: Callable[[dict[str, Any]], int] = lambda _: 200
        self.hang: asyncio.Event | None = None
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = await request.json()
        if self.hang is not None:
            await self.hang.wait()
        status = self.answer({**body, "path": request.path})
        if status == 200:
            self.got.append({**body, "path": request.path, "query": dict(request.query)})
        async with self._arrived:
            self._arrived.notify_all()
        return web.Response(status=status)

    async def open(self) -> None:
        app = web.Application()
        app.router.add_post("/{rest:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(condition)

    def url(self, path: str = "hook/{to}") -> str:
        return f"json://127.0.0.1:{self.port}/{path}"
