from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.core.alerts import Alert, State
from gateway.core.findings import Evidence
from gateway.core.readings import Reading
from gateway.core.severity import Severity
from gateway.errors import NetworkError, StoreError
from gateway.store import alerts, readings
from gateway.store.database import Database
from gateway.web.server import WebServer
from gateway.web.status import (
    BrokerStatus,
    DetectorStatus,
    GatewayStatus,
    MessageStats,
    StoreStatus,
    UplinkStatus,
)

T0_MS = 1_764_081_000_000  # 2025-11-25T14:30:00Z
MINUTE_MS = 60_000

HEALTHY = GatewayStatus(
    gateway_id="gw-1",
    version="0.1.0",
    now_ms=T0_MS,
    uptime_s=61.24,
    broker=BrokerStatus(listening=True, port=1883, connections=3),
    store=StoreStatus(Path("data/alert_state.db"), 123_456, writable=True, last_commit_ms=T0_MS - 500),
    messages=MessageStats(10, 7, 3, 6, 1, 0, last_message_ms=T0_MS - 1000),
    panel="healthy",
    clock_trusted=True,
    detectors=(
        DetectorStatus("immediate_detection", 4, 0, last_run_ms=T0_MS - 90_000),
        DetectorStatus("silence"),
    ),
    uplink=UplinkStatus(connected=True, down=False, pending=0, target="upstream:8883"),
)


class Site:
    """A running server, its facts to play with, and a client."""

    def __init__(self, database: Database, server: WebServer, session: aiohttp.ClientSession) -> None:
        self.database = database
        self.server = server
        self.session = session

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.port}{path}"

    async def json(self, path: str, status: int = 200) -> Any:
        async with self.session.get(self.url(path)) as answer:
            assert answer.status == status, await answer.text()
            assert answer.content_type == "application/json"
            return await answer.json()

    async def text(self, path: str = "/") -> str:
        async with self.session.get(self.url(path)) as answer:
            assert answer.status == 200
            return await answer.text()


def run(
    tmp_path: Path,
    scene: Callable[[Site], Awaitable[None]],
    status: Callable[[], GatewayStatus] = lambda: HEALTHY,
    **options: Any,
) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20), opened(tmp_path, status, **options) as site:
            await scene(site)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def opened(tmp_path: Path, status: Callable[[], GatewayStatus], **options: Any) -> AsyncIterator[Site]:
    database = Database.open(tmp_path / "store.db")
    server = WebServer(status, database, **options)
    await server.start(port=0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Site(database, server, session)
    finally:
        await server.stop()
        await database.close()


def changed(**fields: Any) -> GatewayStatus:
    return msgspec.structs.replace(HEALTHY, **fields)


def alert(subject: str = "COW_7", severity: Severity = Severity.WARNING, **fields: Any) -> Alert:
    base = Alert(
        id=0,
        subject=subject,
        kind="fever",
        episode=1,
        severity=severity,
        state=State.ACTIVE,
        onset_ms=T0_MS - 20 * MINUTE_MS,
        last_seen_ms=T0_MS,
        raised_ms=T0_MS - 15 * MINUTE_MS,
        changed_ms=T0_MS,
        confidence=0.6,
        sentence="40.7 °C, 2.1 °C above usual",
        evidence=Evidence(value=40.7, unit="°C", herd="herd normal"),
    )
    return msgspec.structs.replace(base, **fields)


async def fill(site: Site, *, animals: int = 2, alert_list: tuple[Alert, ...] = ()) -> None:
    rows = [
        Reading(
            f"COW_{n}",
            T0_MS - minute * MINUTE_MS,
            38.5 + n / 10,
            0.1,
            0.2,
            0.9,
            state="lying" if n else None,
            motion_intensity=0.25 if n else None,
            received_ms=T0_MS - minute * MINUTE_MS + 700,
        )
        for n in range(animals)
        for minute in range(3)
    ]

    def work(db: Any) -> None:
        readings.append(db, rows)
        for one in alert_list:
            alerts.save(db, one, None)

    await site.database.write(work)


def test_health_says_everything_an_operator_asks_first_s0_117(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        assert await site.json("/health") == {
            "status": "healthy",
            "reasons": [],
            "version": "0.1.0",
            "gateway_id": "gw-1",
            "time": "2025-11-25T14:30:00Z",
            "uptime_s": 61.2,
            "broker": {"listening": True, "port": 1883, "connections": 3},
            "store": {
                "path": "data/alert_state.db",
                "bytes": 123_456,
                "writable": True,
                "last_commit": "2025-11-25T14:29:59.500Z",
                "used_bytes": 0,
                "budget_bytes": 0,
                "dropped": {},
                "backup": None,
            },
            "messages": {
                "total": 10,
                "valid": 7,
                "invalid": 3,
                "stored": 6,
                "duplicates": 1,
                "storage_errors": 0,
                "last": "2025-11-25T14:29:59Z",
            },
            "detectors": {
                "immediate_detection": {"last_run": "2025-11-25T14:28:30Z", "runs": 4, "failures": 0},
                "silence": {"last_run": None, "runs": 0, "failures": 0},
            },
            "uplink": {"connected": True, "pending": 0, "target": "upstream:8883"},
            "clock": {"trusted": True},
            "panel": "healthy",
            "counters": {},
        }

    run(tmp_path, scene)


@pytest.mark.parametrize(
    ("fields", "word", "code", "reason"),
    [
        ({"uplink": None}, "healthy", 200, None),
        ({"uplink": UplinkStatus(connected=False, down=True, pending=5)}, "degraded", 200, "5 events wait"),
        ({"uplink": UplinkStatus(connected=False, down=False, pending=0)}, "healthy", 200, None),
        ({"clock_trusted": False}, "degraded", 200, "clock is not set"),
        ({"troubles": ("farm register restored",)}, "degraded", 200, "farm register restored"),
        (
            {"detectors": (DetectorStatus("silence", 3, 1, failing=True),)},
            "degraded",
            200,
            "silence failed, 1",
        ),
        ({"detectors": (DetectorStatus("silence", 3, 1, failing=False),)}, "healthy", 200, None),
        ({"store": StoreStatus(Path("x.db"), 0, writable=False)}, "degraded", 200, "x.db cannot be written"),
        ({"silent": ("writer",)}, "unhealthy", 503, "writer does not answer"),
        ({"broker": BrokerStatus(listening=False, port=1883, connections=0)}, "unhealthy", 503, "broker"),
    ],
)
def test_the_word_and_the_code_follow_the_facts(
    tmp_path: Path, fields: dict[str, Any], word: str, code: int, reason: str | None
) -> None:
    async def scene(site: Site) -> None:
        answer = await site.json("/health", code)
        assert answer["status"] == word
        assert (reason is None and answer["reasons"] == []) or (reason and reason in answer["reasons"][0])

    run(tmp_path, scene, lambda: changed(**fields))


def test_mqtt_monitor_can_be_switched_off_s2_009(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        async with site.session.get(site.url("/health/mqtt-monitor")) as answer:
            assert answer.status == 404

    run(tmp_path, scene, mqtt_monitor=False)


def test_mqtt_monitor_has_exactly_the_five_documented_fields_s2_045(tmp_path: Path) -> None:
    facts = HEALTHY

    async def scene(site: Site) -> None:
        nonlocal facts
        assert await site.json("/health/mqtt-monitor") == {
            "status": "healthy",
            "broker_connected": True,
            "last_message_time": "2025-11-25T14:29:59Z",
            "messages_processed": 10,
            "errors_count": 3,
        }
        facts = changed(
            broker=BrokerStatus(listening=False, port=0, connections=0),
            messages=MessageStats(storage_errors=2),
        )
        assert await site.json("/health/mqtt-monitor", 503) == {
            "status": "unhealthy",
            "broker_connected": False,
            "last_message_time": None,
            "messages_processed": 0,
            "errors_count": 2,
        }

    run(tmp_path, scene, lambda: facts)


def test_the_api_speaks_the_sensors_field_names(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        await fill(site)
        animals = await site.json("/api/animals")
        assert sorted(row["cow_id"] for row in animals) == ["COW_0", "COW_1"]
        (one,) = [row for row in animals if row["cow_id"] == "COW_1"]
        assert one == {
            "cow_id": "COW_1",
            "timestamp": "2025-11-25T14:30:00Z",
            "temperature": 38.6,
            "fxa": 0.1,
            "mya": 0.2,
            "rza": 0.9,
            "sxg": None,
            "lyg": None,
            "dzg": None,
            "state": "lying",
            "motion_intensity": 0.25,
            "received_at": "2025-11-25T14:30:00.700Z",
        }
        rows = await site.json("/api/readings?cow_id=COW_0&limit=2")
        assert [row["timestamp"] for row in rows] == ["2025-11-25T14:30:00Z", "2025-11-25T14:29:00Z"]
        assert len(await site.json("/api/readings")) == 6
        assert await site.json("/api/readings?cow_id=NOBODY") == []

    run(tmp_path, scene)


def test_alerts_can_be_asked_for_by_state(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        await fill(
            site,
            alert_list=(
                alert("A"),
                alert("B", Severity.CRITICAL, state=State.ACKNOWLEDGED),
                alert("C", state=State.RESOLVED, ended_ms=T0_MS),
                alert("D", state=State.FALSE_POSITIVE, ended_ms=T0_MS),
            ),
        )

        async def subjects(query: str) -> list[str]:
            return [row["cow_id"] for row in await site.json("/api/alerts" + query)]

        assert await subjects("") == ["D", "C", "B", "A"]
        assert await subjects("?state=open") == ["B", "A"], "the worst first"
        assert await subjects("?state=open&limit=1") == ["B"]
        assert await subjects("?state=active") == ["A"]
        assert await subjects("?state=acknowledged") == ["B"]
        assert await subjects("?state=resolved&limit=1") == ["C"]
        assert await subjects("?state=false_positive") == ["D"]
        (row,) = await site.json("/api/alerts?state=active")
        assert row["alert_type"] == "fever"
        assert row["severity"] == "warning"
        assert row["status"] == "active"
        assert row["timestamp"] == "2025-11-25T14:10:00Z"
        assert row["message"] == "40.7 °C, 2.1 °C above usual"
        assert row["evidence"]["value"] == 40.7
        assert row["ended_at"] is None

    run(tmp_path, scene)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/api/animals?limit=0", "limit must be a whole number from 1 to 1000, not '0'"),
        ("/api/animals?limit=1001", "limit must be"),
        ("/api/readings?limit=1e2", "limit must be"),
        ("/api/readings?limit=%D9%A3", "limit must be"),
        ("/api/readings?cow_id=", "cow_id must be"),
        ("/api/readings?cow_id=a%27%20OR%201", "cow_id must be"),
        ("/api/readings?cow_id=" + "a" * 65, "cow_id must be"),
        ("/api/alerts?state=ACTIVE", "state must be one of open, active"),
        ("/api/alerts?status=active", "there is no parameter 'status', only state, limit"),
    ],
)
def test_a_bad_parameter_is_told_in_a_sentence(tmp_path: Path, path: str, sentence: str) -> None:
    async def scene(site: Site) -> None:
        assert sentence in (await site.json(path, 400))["error"]

    run(tmp_path, scene)


def test_wrong_paths_and_methods_are_refused_and_nothing_can_be_changed(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        assert await site.json("/nothing", 404) == {"error": "Not Found"}
        assert "error" in await site.json("/../../etc/passwd", 404)
        async with site.session.post(site.url("/api/alerts"), data=b"x" * 100_000) as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET, HEAD"

    run(tmp_path, scene)


def test_a_store_that_cannot_be_read_is_503_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Any) -> None:
        raise StoreError("disk I/O error", hint="check the card")

    async def scene(site: Site) -> None:
        monkeypatch.setattr(site.database, "read", broken)
        assert await site.json("/api/animals", 503) == {"error": "disk I/O error (check the card)"}
        assert (await site.json("/health"))["status"] == "healthy", "health needs no store"

    run(tmp_path, scene)


# The page ----------------------------------------------------------------------------------------


class Shape(HTMLParser):
    """Tags that are opened and closed in order, and what may not be there."""

    VOID = frozenset({"meta", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "script":
            self.scripts.append(dict(attrs).get("src"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shape(text: str) -> Shape:
    parser = Shape()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"style", "img", "iframe"}
    assert parser.scripts == ["/page.js"], "our own, and nothing written into the page"
    assert not {name for name in parser.attributes if name.startswith("on") or name == "style"}
    return parser


def test_the_page_shows_alerts_animals_panel_and_figures(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        await fill(
            site,
            alert_list=(
                alert("COW_0"),
                alert("COW_1", Severity.CRITICAL, late=True),
                alert("COW_9", state=State.RESOLVED, ended_ms=T0_MS - 3_600_000),
            ),
        )
        text = await site.text()
        shape(text)
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text
        assert "<title>(2 critical) Barn Gateway</title>" in text
        order = re.findall(r'<article class="card (\w+)"', text)
        assert order == ["critical", "warning", "ended"]
        assert "since 2025-11-25 14:10 UTC (20 min ago) · active · confidence 60% · late" in text
        assert "40.7 °C, 2.1 °C above usual" in text
        assert "ended 60 min ago" in text
        assert (
            '<tr class="critical"><td>COW_1</td><td title="2025-11-25T14:30:00Z">0 s ago</td><td>38.6</td>'
            '<td>lying</td><td><span class="word">critical</span></td></tr>' in text
        )
        assert "<td>38.5</td><td>–</td>" in text
        assert "Lamp and buzzer: <strong>healthy</strong>" in text
        assert "<dt>Invalid</dt><dd>3</dd>" in text
        assert "<dt>immediate detection</dt><dd>2 min ago</dd>" in text
        assert "<dt>silence</dt><dd>not run yet</dd>" in text

    run(tmp_path, scene)


def test_an_empty_barn_has_a_page(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        text = await site.text()
        shape(text)
        assert "No alerts yet." in text
        assert "No reading has arrived yet." in text
        assert "Not working" in text
        assert "(clock not set)" in text
        assert "<dt>Uplink</dt><dd>none</dd>" in text

    run(
        tmp_path,
        scene,
        lambda: changed(silent=("writer",), clock_trusted=False, uplink=None, messages=MessageStats()),
    )


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"

    async def scene(site: Site) -> None:
        await fill(site, alert_list=(alert(evil, kind=evil, sentence=evil),))
        rows = [Reading("COW_0", T0_MS + 1, 38.5, 0, 0, 1, state=evil[:24], received_ms=T0_MS)]
        await site.database.write(lambda db: readings.append(db, rows))
        text = await site.text()
        shape(text)
        assert "&lt;script&gt;" in text

    store = StoreStatus(Path(evil), 0, writable=False)
    run(
        tmp_path,
        scene,
        lambda: changed(gateway_id=evil, panel=evil, troubles=(evil,), store=store, version=evil),
    )


def test_a_large_herd_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.web.views.ANIMALS_SHOWN", 3)

    async def scene(site: Site) -> None:
        await fill(site, animals=5)
        text = await site.text()
        shape(text)
        assert text.count("<tr><td>") == 3
        assert "and 2 more" in text

    run(tmp_path, scene)


def test_every_answer_carries_the_security_headers(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        for path in ("/", "/style.css", "/health", "/api/alerts?limit=x", "/nothing"):
            async with site.session.get(site.url(path)) as answer:
                await answer.read()
                assert answer.headers["Content-Security-Policy"].startswith(
                    "default-src 'none'; style-src 'self'"
                )
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                assert "Server" not in answer.headers
        assert "--critical" in await site.text("/style.css")

    run(tmp_path, scene)


# The socket --------------------------------------------------------------------------------------


def test_a_port_in_use_names_itself_and_the_remedy(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        second = WebServer(lambda: HEALTHY, site.database)
        with pytest.raises(
            NetworkError, match=rf"127\.0\.0\.1:{site.server.port} is already in use"
        ) as caught:
            await second.start(port=site.server.port)
        assert str(site.server.port) in caught.value.hint
        assert caught.value.exit_code == 3
        assert second.port == 0
        for host in ("192.0.2.1", "no-such-host.invalid"):
            with pytest.raises(NetworkError, match="is not an address of this machine"):
                await second.start(host, 0)

    run(tmp_path, scene)


def test_connections_are_bounded_and_those_over_it_are_told(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        held = [await asyncio.open_connection("127.0.0.1", site.server.port) for _ in range(2)]
        for reader, writer in held:
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        assert (await reader.read()).startswith(b"HTTP/1.1 503")
        assert site.server.refused == 1
        for _, other in [*held, (reader, writer)]:
            other.close()
            await other.wait_closed()
        async with asyncio.timeout(5):
            while True:  # the places are free again
                with contextlib.suppress(aiohttp.ClientError, AssertionError):
                    await site.json("/health")
                    break

    run(tmp_path, scene, connections_max=2)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nX-Slow: "])
def test_a_connection_that_asks_nothing_is_closed(tmp_path: Path, said: bytes) -> None:
    async def scene(site: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        writer.write(said)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        await writer.wait_closed()

    run(tmp_path, scene, idle_s_max=0.2)


def test_oversized_and_broken_requests_are_refused(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        for said in (
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
            writer.write(said)
            assert b" 400 " in await reader.readline()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await site.json("/health")

    with_logs_quiet(lambda: run(tmp_path, scene))


def with_logs_quiet(work: Callable[[], None]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        work()
    finally:
        logging.disable(logging.NOTSET)


def test_stop_frees_the_port(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        port = site.server.port
        await site.json("/health")
        await site.server.stop()
        assert site.server.port == 0
        with socket.create_server(("127.0.0.1", port), reuse_port=False):
            pass

    run(tmp_path, scene)


# --- series ---------------------------------------------------------------------------------------


def test_series_are_figures_of_buckets_by_animal(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        await fill(site)
        span = "from=2025-11-25T14:00:00Z&to=2025-11-25T15:00:00Z"
        answer = await site.json(f"/api/series?{span}&points=6&channels=temperature_c,motion_intensity")
        assert answer["step_s"] == 600
        assert list(answer["animals"]) == ["COW_0", "COW_1"]
        one = answer["animals"]["COW_1"]
        assert one["time_ms"] == [T0_MS - 10 * MINUTE_MS, T0_MS]
        assert one["n"] == [2, 1]
        assert one["temperature_c"] == {key: [38.6, 38.6] for key in ("values", "low", "high", "last")}
        assert answer["animals"]["COW_0"]["motion_intensity"]["values"] == [None, None]

    run(tmp_path, scene)


def test_every_reading_of_a_few_animals_and_a_day(tmp_path: Path) -> None:
    async def scene(site: Site) -> None:
        await fill(site)
        answer = await site.json("/api/series?cow_id=COW_1&from=2025-11-25&to=2025-11-26&points=all")
        assert answer["step_s"] is None
        assert answer["animals"] == {
            "COW_1": {
                "time_ms": [T0_MS - 2 * MINUTE_MS, T0_MS - MINUTE_MS, T0_MS],
                "temperature_c": [38.6, 38.6, 38.6],
            }
        }
        assert (await site.json("/api/series?cow_id=NOBODY"))["animals"] == {}

    run(tmp_path, scene)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("channels=heat", "channels must be of temperature_c"),
        ("points=0", "points must be a whole number from 1 to 2000"),
        ("points=all", "names at most 10 animals"),
        ("points=all&cow_id=A&from=-3d", "24 h"),
        ("from=yesterday", "is no time"),
        ("cow_id=a%20b", "cow_id must be"),
        ("step=5", "no parameter 'step'"),
    ],
)
def test_a_series_nobody_can_answer_is_told_in_a_sentence(tmp_path: Path, query: str, sentence: str) -> None:
    async def scene(site: Site) -> None:
        answer = await site.json(f"/api/series?{query}", 400)
        assert sentence in answer["error"]

    run(tmp_path, scene)
