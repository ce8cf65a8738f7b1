"""One HTTP server: health, status page, API, live stream, links of notifications.

Runs on the event loop; reads the store through its reader pool, so a slow answer never holds up
a commit.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from aiohttp import web

from gateway.errors import NetworkError, StoreError
from gateway.ports import AlertDesk
from gateway.store import alerts as alert_rows
from gateway.store import history, newest
from gateway.store import readings as reading_rows
from gateway.store.database import Connection, Database
from gateway.store.standing import standings
from gateway.web import api, series, views
from gateway.web.actions import Actions, name_of
from gateway.web.answers import add_headers, html, json, plain_errors
from gateway.web.link_page import LinkPage
from gateway.web.live import Live
from gateway.web.status import GatewayStatus, Health, judge

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
"""Open HTTP connections. A browser keeps up to 6, so ten people; 64 x 64 KB of buffers = 4 MB."""

IDLE_S_MAX = 15.0
"""A connection without a complete request is closed after this, also a new one that says nothing."""

REQUEST_BYTES_MAX = 16 * 1024
"""Body of a request: a form of five fields, at most 600 characters, needs 6 KB where each character is
escaped as %XX of three bytes. aiohttp bounds line and headers at 8 KiB each."""

STOP_S_MAX = 2.0
"""Answers in progress may finish this long when the server stops; they take milliseconds. Live streams
are ended at once."""

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 21\r\n\r\ntoo many connections\r\n"
)


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
        desk: where alerts are acknowledged, ended and silenced; None = for now nothing can be done.
        link_secret: signs the links of notifications; b"" = there are none.
        names: host names by which people reach this machine, besides its own; only under such a name,
            or an address, can a page change something.
        connections_max: open connections; more are refused with 503.
        idle_s_max: see `IDLE_S_MAX`.
    """

    def __init__(
        self,
        status: Callable[[], GatewayStatus],
        database: Database | None,
        *,
        mqtt_monitor: bool = True,
        desk: AlertDesk | None = None,
        link_secret: bytes = b"",
        names: Collection[str] = (),
        connections_max: int = CONNECTIONS_MAX,
        idle_s_max: float = IDLE_S_MAX,
    ) -> None:
        self._status = status
        self._store = database
        self._mqtt_monitor_wanted = mqtt_monitor
        self._connections_max = connections_max
        self._idle_s_max = idle_s_max
        static = Path(__file__).with_name("static")
        self._style = (static / "style.css").read_bytes()
        self._script = (static / "page.js").read_bytes()
        self._desk = desk
        self.live = Live()
        self._actions = Actions(desk, self._opened, self._now_ms, names)
        self._links = LinkPage(link_secret, desk, self._opened, self._now_ms)
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
        app = web.Application(middlewares=[plain_errors], client_max_size=REQUEST_BYTES_MAX)
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/", self._page)
        app.router.add_get("/style.css", self._stylesheet)
        app.router.add_get("/page.js", self._page_script)
        app.router.add_get("/live", self.live.handle)
        app.router.add_get("/health", self._health)
        if self._mqtt_monitor_wanted:
            app.router.add_get("/health/mqtt-monitor", self._mqtt_monitor)
        app.router.add_get("/api/animals", self._animals)
        app.router.add_get("/api/alerts", self._alerts)
        app.router.add_get("/api/readings", self._readings)
        app.router.add_get("/api/series", self._series)
        self._actions.add_to(app.router)
        self._links.add_to(app.router)
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
        self.live.close()
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

    def _opened(self) -> Database:
        return self._database

    def _now_ms(self) -> int:
        return self._status().now_ms

    # Handlers ----------------------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        status = self._status()
        unhealthy = judge(status).health is Health.UNHEALTHY
        return json(api.health_object(status), 503 if unhealthy else 200)

    async def _mqtt_monitor(self, _: web.Request) -> web.Response:
        status = self._status()
        return json(api.mqtt_monitor_object(status), 200 if status.broker.listening else 503)

    async def _animals(self, request: web.Request) -> web.Response:
        api.only_known(request.query, "limit")
        limit = api.limit_of(request.query)
        rows = await self._database.read(lambda db: newest.latest(db, limit))
        return json([api.reading_object(row) for row in rows])

    async def _readings(self, request: web.Request) -> web.Response:
        api.only_known(request.query, "cow_id", "limit")
        cow_id, limit = api.cow_id_of(request.query), api.limit_of(request.query)
        rows = await self._database.read(lambda db: newest.recent(db, cow_id, limit))
        return json([api.reading_object(row) for row in rows])

    async def _series(self, request: web.Request) -> web.Response:
        """Charts: figures of buckets, or every reading of a short span (`points=all`)."""
        wanted = series.series_of(request.query, self._status().now_ms)
        table = await self._database.read(lambda db: _ask(db, wanted))
        return json(await asyncio.to_thread(series.series_object, table, wanted))

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
        return json([api.alert_object(row) for row in chosen[:limit]])

    async def _page(self, request: web.Request) -> web.Response:
        status = self._status()
        if self._store is None:
            nothing = views.Page(status=status, open_alerts=[], ended=[], readings=[], animals=0)
            return html(views.page(nothing))
        name = None if self._desk is None else name_of(request)
        silences = () if self._desk is None else tuple(self._desk.silences)

        def look(db: Connection) -> views.Page:
            open_alerts = alert_rows.open_alerts(db)
            newest_alerts = alert_rows.recent(db, None, views.ENDED_SHOWN + len(open_alerts))
            ended = [row for row in newest_alerts if row.ended_ms is not None][: views.ENDED_SHOWN]
            return views.Page(
                status=status,
                open_alerts=open_alerts,
                ended=ended,
                readings=newest.latest(db, views.ANIMALS_SHOWN),
                animals=reading_rows.animal_count(db),
                standings=standings(db, [*open_alerts, *ended]),
                silences=silences,
                name=name,
            )

        # Rendered in the reader's thread too: 500 rows are about 5 ms the loop does not wait for.
        return html(await self._database.read(lambda db: views.page(look(db))))

    async def _stylesheet(self, _: web.Request) -> web.Response:
        return web.Response(body=self._style, content_type="text/css", charset="utf-8")

    async def _page_script(self, _: web.Request) -> web.Response:
        return web.Response(body=self._script, content_type="text/javascript", charset="utf-8")


def _ask(db: Connection, wanted: series.SeriesQuery) -> history.SeriesTable:
    span = wanted.from_ms, wanted.to_ms
    if wanted.points is None:
        return history.series(db, wanted.cow_ids, *span, wanted.channels)
    return history.points(db, wanted.cow_ids, *span, wanted.channels, points_max=wanted.points)


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
