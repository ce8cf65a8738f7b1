"""One HTTP server: health, status page, read-only API.

Runs on the event loop; reads the store through its reader pool, so a slow answer never holds up
a commit.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from gateway.errors import NetworkError, StoreError
from gateway.store import alerts as alert_rows
from gateway.store import history, newest
from gateway.store import readings as reading_rows
from gateway.store.database import Connection, Database
from gateway.web import api, series, views
from gateway.web.status import GatewayStatus, Health, judge

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
"""Open HTTP connections. A browser keeps up to 6, so ten people; 64 x 64 KB of buffers = 4 MB."""

IDLE_S_MAX = 15.0
"""A connection without a complete request is closed after this, also a new one that says nothing."""

REQUEST_BYTES_MAX = 16 * 1024
"""Body of a request. Nothing here takes a body; aiohttp bounds line and headers at 8 KiB each."""

STOP_S_MAX = 2.0
"""Answers in progress may finish this long when the server stops; they take milliseconds."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 21\r\n\r\ntoo many connections\r\n"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refusal(asyncio.Protocol):
    """A connection beyond the bound: told so and closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.write(_FULL)
            transport.close()


class WebServer:
    """The HTTP side of the gateway.

    Args:
        status: gives the facts of this moment; called for each request, must not block.
        database: read side; None while the store cannot be opened: /api answers 503.
        mqtt_monitor: whether /health/mqtt-monitor is there (`service.enable_mqtt_monitor`, S2-009).
        connections_max: open connections; more are refused with 503.
        idle_s_max: see `IDLE_S_MAX`.
    """

    def __init__(
        self,
        status: Callable[[], GatewayStatus],
        database: Database | None,
        *,
        mqtt_monitor: bool = True,
        connections_max: int = CONNECTIONS_MAX,
        idle_s_max: float = IDLE_S_MAX,
    ) -> None:
        self._status = status
        self._store = database
        self._mqtt_monitor_wanted = mqtt_monitor
        self._connections_max = connections_max
        self._idle_s_max = idle_s_max
        self._style = Path(__file__).with_name("style.css").read_bytes()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self.refused = 0
        """Connections over the bound since the start."""

    @property
    def port(self) -> int:
        """The bound port; 0 while not listening."""
        if self._listener is None or not self._listener.sockets:
            return 0
        return int(self._listener.sockets[0].getsockname()[1])

    async def start(self, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Listen.

        Raises:
            NetworkError: the port is in use, the address is not ours, or we lack the right.
        """
        app = web.Application(middlewares=[_plain_errors], client_max_size=REQUEST_BYTES_MAX)
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/", self._page)
        app.router.add_get("/style.css", self._stylesheet)
        app.router.add_get("/health", self._health)
        if self._mqtt_monitor_wanted:
            app.router.add_get("/health/mqtt-monitor", self._mqtt_monitor)
        app.router.add_get("/api/animals", self._animals)
        app.router.add_get("/api/alerts", self._alerts)
        app.router.add_get("/api/readings", self._readings)
        app.router.add_get("/api/series", self._series)
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=self._idle_s_max, shutdown_timeout=STOP_S_MAX
        )
        await runner.setup()
        self._runner = runner
        try:
            self._listener = await asyncio.get_running_loop().create_server(self._accept, host, port)
        except OSError as error:
            await self.stop()
            raise _network_error(host, port, error) from error

    async def stop(self) -> None:
        """Close the port, let answers in progress finish, close all connections. Idempotent."""
        listener, self._listener = self._listener, None
        runner, self._runner = self._runner, None
        if listener is not None:
            listener.close()
        if runner is not None:
            await runner.cleanup()
        if listener is not None:
            await listener.wait_closed()

    def _accept(self) -> asyncio.BaseProtocol:
        server = None if self._runner is None else self._runner.server
        if server is None or len(server.connections) >= self._connections_max:
            self.refused += 1
            return _Refusal()
        return server()

    @property
    def _database(self) -> Database:
        if self._store is None:
            raise StoreError("the store cannot be opened; /health says why")
        return self._store

    # Handlers ----------------------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        status = self._status()
        unhealthy = judge(status).health is Health.UNHEALTHY
        return _json(api.health_object(status), 503 if unhealthy else 200)

    async def _mqtt_monitor(self, _: web.Request) -> web.Response:
        status = self._status()
        return _json(api.mqtt_monitor_object(status), 200 if status.broker.listening else 503)

    async def _animals(self, request: web.Request) -> web.Response:
        api.only_known(request.query, "limit")
        limit = api.limit_of(request.query)
        rows = await self._database.read(lambda db: newest.latest(db, limit))
        return _json([api.reading_object(row) for row in rows])

    async def _readings(self, request: web.Request) -> web.Response:
        api.only_known(request.query, "cow_id", "limit")
        cow_id, limit = api.cow_id_of(request.query), api.limit_of(request.query)
        rows = await self._database.read(lambda db: newest.recent(db, cow_id, limit))
        return _json([api.reading_object(row) for row in rows])

    async def _series(self, request: web.Request) -> web.Response:
        """Charts: figures of buckets, or every reading of a short span (`points=all`)."""
        wanted = series.series_of(request.query, self._status().now_ms)
        table = await self._database.read(lambda db: _ask(db, wanted))
        return _json(await asyncio.to_thread(series.series_object, table, wanted))

    async def _alerts(self, request: web.Request) -> web.Response:
        """Ended states are looked for among the newest `LIMIT_MAX` alerts."""
        api.only_known(request.query, "state", "limit")
        state, limit = api.state_of(request.query), api.limit_of(request.query)
        if state in {"open", "active", "acknowledged"}:
            rows = api.worst_first(await self._database.read(alert_rows.open_alerts))
        else:
            look_at = limit if state is None else api.LIMIT_MAX
            rows = await self._database.read(lambda db: alert_rows.recent(db, None, look_at))
        chosen = [row for row in rows if state in {None, "open", row.state.value}]
        return _json([api.alert_object(row) for row in chosen[:limit]])

    async def _page(self, _: web.Request) -> web.Response:
        def look(db: Connection) -> views.Page:
            shown = views.ENDED_SHOWN + len(still_open := alert_rows.open_alerts(db))
            return views.Page(
                status=status,
                open_alerts=still_open,
                ended=[row for row in alert_rows.recent(db, None, shown) if row.ended_ms is not None],
                readings=newest.latest(db, views.ANIMALS_SHOWN),
                animals=reading_rows.animal_count(db),
            )

        status = self._status()
        if self._store is None:
            nothing = views.Page(status=status, open_alerts=[], ended=[], readings=[], animals=0)
            return web.Response(text=views.page(nothing), content_type="text/html")
        # Rendered in the reader's thread too: 500 rows are about 5 ms the loop does not wait for.
        text = await self._database.read(lambda db: views.page(look(db)))
        return web.Response(text=text, content_type="text/html")

    async def _stylesheet(self, _: web.Request) -> web.Response:
        return web.Response(body=self._style, content_type="text/css", charset="utf-8")


def _ask(db: Connection, wanted: series.SeriesQuery) -> history.SeriesTable:
    span = wanted.from_ms, wanted.to_ms
    if wanted.points is None:
        return history.series(db, wanted.cow_ids, *span, wanted.channels)
    return history.points(db, wanted.cow_ids, *span, wanted.channels, points_max=wanted.points)


def _json(content: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is one sentence in JSON; a bug is logged by aiohttp and answered with 500."""
    try:
        return await handler(request)
    except api.BadParameterError as error:
        return _json({"error": str(error)}, 400)
    except StoreError as error:
        return _json({"error": str(error)}, 503)
    except web.HTTPMethodNotAllowed as error:
        answer = _json({"error": f"{request.method} is not possible here"}, error.status)
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return answer
    except web.HTTPException as error:
        return _json({"error": error.reason}, error.status)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.pop("Server", None)  # nobody needs our library's version to attack it


def _network_error(host: str, port: int, error: OSError) -> NetworkError:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return NetworkError(
            f"HTTP port {where} is already in use",
            f"stop the other program (`ss -ltnp 'sport = :{port}'` names it) or set another port",
        )
    if error.errno == errno.EACCES:
        return NetworkError(f"HTTP port {where} needs special rights", "use a port above 1023")
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return NetworkError(
            f"HTTP address {where} is not an address of this machine", "use 127.0.0.1 or 0.0.0.0"
        )
    return NetworkError(f"cannot listen for HTTP on {where}: {error}")
