"""`/live`: server-sent events, one for each committed move of an alert. Runs on the event loop.

`push` never waits: every page has a bounded queue. One that does not keep up first loses what newer
events of the same alert say anyway, and is closed when even that does not help; the browser connects
again by itself and reads the whole page anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final

import msgspec
from aiohttp import web

from gateway.core.alert_event import event_json
from gateway.core.alerts import Move
from gateway.web.answers import RefusedError

CLIENTS_MAX: Final = 32
"""Pages that may listen: half of `server.CONNECTIONS_MAX`, so that the others can still be asked for.
32 × (64 events of 1 KB + 64 KB of socket buffer) = 4 MB."""
QUEUE_MAX: Final = 64
"""Events that wait for one page: more than a whole herd event moves at once."""
HEARTBEAT_S: Final = 15.0
"""A line that says nothing: proxies and phones give up a silent connection after 30 to 60 s, and a page
that is gone is noticed."""
SEND_S_MAX: Final = 30.0
"""A page whose socket takes nothing for two heartbeats is gone."""


class _Page:
    """One listener: what waits for it."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.waiting: deque[tuple[str, bytes]] = deque()
        self.due = asyncio.Event()
        self.over = False

    @property
    def gone(self) -> bool:
        """Whether its socket is closed already."""
        return self.over or self.request.transport is None or self.request.transport.is_closing()

    def end(self) -> None:
        """Nothing more is sent."""
        self.over = True
        self.due.set()


class LiveCounters(msgspec.Struct):
    """Since start, for /metrics.

    Args:
        events: moves that were pushed.
        conflated: events a slow page has lost to newer ones of the same alert.
        dropped: pages closed because they did not keep up.
        refused: pages beyond `CLIENTS_MAX`.
    """

    events: int = 0
    conflated: int = 0
    dropped: int = 0
    refused: int = 0


class Live:
    """The listeners of one server.

    Args:
        clients_max: see `CLIENTS_MAX`.
        heartbeat_s: see `HEARTBEAT_S`.
        send_s_max: see `SEND_S_MAX`.
    """

    def __init__(
        self,
        clients_max: int = CLIENTS_MAX,
        heartbeat_s: float = HEARTBEAT_S,
        send_s_max: float = SEND_S_MAX,
    ) -> None:
        self._clients_max = clients_max
        self._heartbeat_s = heartbeat_s
        self._send_s_max = send_s_max
        self._pages: set[_Page] = set()
        self._closed = False
        self.counters = LiveCounters()

    @property
    def pages_n(self) -> int:
        """How many listen now."""
        return sum(not page.gone for page in self._pages)

    def push(self, move: Move) -> None:
        """Tell every page of a committed move. Never blocks."""
        self.counters.events += 1
        alert = move.alert
        if self._pages:
            event = b"event: alert\ndata: " + event_json(alert, move.change, move.reason) + b"\n\n"
            for page in self._pages:
                self._queue(page, alert.key, event)

    def close(self) -> None:
        """End all streams; each has ended when its loop has had a turn. No further one is accepted."""
        self._closed = True
        for page in self._pages:
            page.end()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /live."""
        if self._closed:
            raise RefusedError(503, "the gateway stops")
        if self.pages_n >= self._clients_max:
            self.counters.refused += 1
            raise RefusedError(503, f"{self._clients_max} pages listen already; close one of them")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        page = _Page(request)
        self._pages.add(page)
        try:
            await response.prepare(request)
            # A browser that lost the stream asks again after 2 s.
            await self._send(response, b"retry: 2000\n\n")
            while not page.gone:
                await self._send(response, await self._next(page))
        except (ConnectionError, TimeoutError):
            pass  # the page is gone, or takes nothing any more
        finally:
            self._pages.discard(page)
        if page.over and request.transport is not None:
            # What it has not read is not waited for; it asks again, or the gateway stops.
            request.transport.abort() if page.waiting else request.transport.close()
        return response

    def _queue(self, page: _Page, key: str, event: bytes) -> None:
        waiting = page.waiting
        if len(waiting) >= QUEUE_MAX:
            newest = dict(waiting)
            newest.pop(key, None)
            self.counters.conflated += len(waiting) - len(newest)
            waiting.clear()
            waiting.extend(newest.items())
        if len(waiting) >= QUEUE_MAX:
            self.counters.dropped += 1
            page.end()
            return
        waiting.append((key, event))
        page.due.set()

    async def _next(self, page: _Page) -> bytes:
        """Everything that waits, or a heartbeat when nothing has come for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._heartbeat_s):
                await page.due.wait()
        page.due.clear()
        said = b"".join(event for _, event in page.waiting)
        page.waiting.clear()
        return said or b":\n\n"

    async def _send(self, response: web.StreamResponse, text: bytes) -> None:
        async with asyncio.timeout(self._send_s_max):
            await response.write(text)
