"""Real faults under the real process: full card, I/O error, slow sync, damage (decisions 29, 39, 41)."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sqlite3
import subprocess
import urllib.error
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import aiomqtt
import pytest

from gateway.core.readings import Reading
from gateway.store import readings
from gateway.store.database import Database
from tests.bench.load import Publisher, connect_packet, packets_of
from tests.conftest import may_mount, need
from tests.e2e.gateway_process import GatewayProcess, running_gateway, until
from tests.e2e.publishers import message
from tests.e2e.test_whole_barn import free_ports
from tests.store import damage

QUICK = {"store": {"commit_window_ms": 20}}
HERD, BACKLOG, KEEPALIVE_S = 5, 200, 1
IN_FLIGHT_MAX = 64
"""Readings of one client that are taken from its socket and not yet acknowledged (DESIGN, step 1)."""


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own at `barn/data`, for the barn in tmp_path."""
    data = tmp_path / "barn" / "data"
    data.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(data)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = f"cannot mount a small file system: {done.stderr.strip()}"
        if os.environ.get("CI") and may_mount():
            pytest.fail(reason)
        pytest.skip(reason)
    yield data
    subprocess.run(["umount", "-l", str(data)], check=True)


def fill(card: Path) -> Path:
    """Take all the room there is."""
    ballast = card / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


class Sender:
    """One client that sends readings with QoS 1, one after another, and knows which were acknowledged."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent = 0
        self.acked: list[int] = []

    async def send(self, count: int, timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s), aiomqtt.Client("127.0.0.1", self._port, timeout=20) as client:
            for _ in range(count):
                topic, payload = message("COW_001", self.sent)
                number, self.sent = self.sent, self.sent + 1
                await client.publish(topic, payload, qos=1, timeout=timeout_s)
                self.acked.append(number)


def assert_all_stored(store: Path, sender: Sender) -> None:
    """Every acknowledged reading is in the store, once."""
    with closing(sqlite3.connect(store)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = [row for (row,) in db.execute("SELECT timestamp FROM sensor_data WHERE cow_id = 'COW_001'")]
    assert len(rows) == len(set(rows))
    assert len(rows) >= len(sender.acked)
    stored = {(int(r[8:10]) - 1) * 1440 + int(r[11:13]) * 60 + int(r[14:16]) for r in rows}
    assert set(sender.acked) <= stored


def degraded_because(gateway: GatewayProcess, text: str) -> bool:
    health = gateway.health()
    return health.get("status") == "degraded" and any(text in reason for reason in health["reasons"])


@pytest.mark.rig
def test_a_card_that_is_full_at_the_start_and_again_later_loses_nothing_acknowledged(
    tmp_path: Path, card: Path
) -> None:
    port, http_port = free_ports(2)
    ballast = fill(card)
    with running_gateway(tmp_path / "barn", port, http_port, wait=False, **QUICK) as gateway:
        until(lambda: degraded_because(gateway, "cannot be opened"), "a degraded /health")
        assert "gateway cannot store" in gateway.health()["panel"]
        until(lambda: "PANEL red" in gateway.console(), "the lamp")
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
        with pytest.raises(urllib.error.HTTPError, match="503"):
            gateway.get("/api/animals")
        assert "cannot be opened" in gateway.get("/")
        ballast.unlink()
        until(lambda: "Service running successfully" in gateway.console(), "the start after that")
        assert gateway.log().count("cannot be opened for now") == 1
        assert gateway.log().count("The store can be used") == 1

        sender = Sender(port)
        asyncio.run(sender.send(20))
        ballast = fill(card)
        with pytest.raises(TimeoutError):
            asyncio.run(fill_the_log(sender, gateway))
        asked = len(sender.acked)
        assert degraded_because(gateway, "cannot be written")
        until(lambda: gateway.console().count("gateway cannot store") == 2, "the lamp")
        ballast.unlink()
        until(lambda: gateway.health().get("status") == "healthy", "health by itself")
        asyncio.run(sender.send(20))
        assert len(sender.acked) >= asked + 20
        gateway.kill()
    assert_all_stored(gateway.store, sender)


@pytest.mark.rig
def test_while_the_card_is_full_each_client_waits_with_at_most_64_readings_and_none_is_evicted(
    tmp_path: Path, card: Path
) -> None:
    """Their keepalive is shorter than the outage, and they are silent: they cannot be heard (decision 29)."""
    port, http_port = free_ports(2)
    with running_gateway(tmp_path / "barn", port, http_port, **QUICK) as gateway:
        first = Sender(port)
        asyncio.run(first.send(5))
        ballast = fill(card)
        with pytest.raises(TimeoutError):
            asyncio.run(fill_the_log(first, gateway))
        until(lambda: degraded_because(gateway, "cannot be written"), "a degraded /health")
        health = gateway.health()
        total, others = health["messages"]["total"], health["broker"]["connections"]

        async def wait_out() -> None:
            herd = [await crowding(port, f"HERD_{number}") for number in range(HERD)]
            for _ in range(2):
                await silent_client_is_evicted(port)
            health = await asyncio.to_thread(gateway.health)
            assert health["broker"]["connections"] == others + HERD, "somebody was evicted"
            assert HERD < health["messages"]["total"] - total <= HERD * IN_FLIGHT_MAX
            assert not any(waits_ms for _, waits_ms in herd), "acknowledged, and not on disk"
            assert degraded_because(gateway, "cannot be written")
            ballast.unlink()
            async with asyncio.timeout(30):
                await asyncio.gather(*(client.done for client, _ in herd))
            for client, _ in herd:
                client.close()

        asyncio.run(wait_out())
        until(lambda: gateway.health().get("status") == "healthy", "health by itself")
        gateway.kill()
    assert_all_stored(gateway.store, first)
    with closing(sqlite3.connect(gateway.store)) as db:
        rows = db.execute(
            "SELECT cow_id, count(*), count(DISTINCT timestamp) FROM sensor_data"
            " WHERE cow_id LIKE 'HERD%' GROUP BY cow_id ORDER BY cow_id"
        ).fetchall()
    assert rows == [(f"HERD_{number}", BACKLOG, BACKLOG) for number in range(HERD)]


async def crowding(port: int, cow_id: str) -> tuple[Publisher, list[float]]:
    """A collar that has sent its whole backlog at once; it is filled in what was acknowledged when."""
    waits_ms: list[float] = []
    hello = connect_packet(cow_id, keepalive_s=KEEPALIVE_S)
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Publisher(cow_id, packets_of(cow_id, BACKLOG), BACKLOG, waits_ms, hello), "127.0.0.1", port
    )
    await client.connected
    client.pump()
    return client, waits_ms


async def silent_client_is_evicted(port: int) -> None:
    """Somebody with the same keepalive who may speak, and does not, goes after 1.5 times that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(connect_packet("SILENT", keepalive_s=KEEPALIVE_S))
    async with asyncio.timeout(30):
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        with suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


async def fill_the_log(sender: Sender, gateway: GatewayProcess) -> None:
    """Send until nothing is acknowledged any more (the log still has some room of its own)."""
    while True:
        sending = asyncio.create_task(sender.send(1, timeout_s=3.0))
        await sending


def injected(store: Path, what: str) -> tuple[str, ...]:
    """strace as the hand of fate: only calls on the store's log are touched."""
    log = store.with_name(store.name + "-wal")
    call = what.split(":", 1)[0]
    strace = (need("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-P", str(log))
    return (*strace, "-e", f"trace={call}", "-e", f"inject={what}")


@pytest.mark.rig
@pytest.mark.parametrize(
    ("what", "says"),
    [
        pytest.param("pwrite64:error=EIO:when=60..62", "disk I/O error", id="I/O error"),
        pytest.param("pwrite64:error=EROFS:when=60..62", "", id="read-only", marks=pytest.mark.soak),
        pytest.param("pwrite64:error=ENOSPC:when=60..62", "full", id="no room", marks=pytest.mark.soak),
        pytest.param("fdatasync:error=EIO:when=9..11", "disk I/O error", id="sync", marks=pytest.mark.soak),
    ],
)
def test_while_the_card_refuses_nothing_is_acknowledged_and_afterwards_all_goes_on(
    tmp_path: Path, what: str, says: str
) -> None:
    port, http_port = free_ports(2)
    home = tmp_path / "barn"
    store = home / "data" / "alert_state.db"
    Database.open(store).close_now()  # so that all calls counted are the writer's
    sender = Sender(port)

    async def send_and_look(gateway: GatewayProcess) -> None:
        sending = asyncio.create_task(sender.send(40))
        await asyncio.to_thread(
            until, lambda: degraded_because(gateway, "cannot be written"), "a degraded /health"
        )
        acked = len(sender.acked)
        assert acked < 40
        assert "cannot store" in gateway.health()["panel"]
        await sending

    with running_gateway(home, port, http_port, injected(store, what), **QUICK) as gateway:
        asyncio.run(send_and_look(gateway))
        assert len(sender.acked) == 40
        until(lambda: gateway.health().get("status") == "healthy", "health by itself")
        log = gateway.log()
        assert log.count("Database insertion failure") == 1
        assert log.count("Database writes again") == 1
        assert says in log
        gateway.kill()
    assert_all_stored(store, sender)


@pytest.mark.soak
def test_a_sync_that_takes_two_seconds_delays_acknowledgements_and_nothing_else(tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    home = tmp_path / "barn"
    store = home / "data" / "alert_state.db"
    Database.open(store).close_now()
    sender = Sender(port)
    wrap = injected(store, "fdatasync:delay_exit=2000000")
    with running_gateway(home, port, http_port, wrap, **QUICK) as gateway:

        async def send_and_look() -> None:
            sending = asyncio.create_task(sender.send(4))
            while not sending.done():
                health = await asyncio.to_thread(gateway.health)
                assert health["status"] == "healthy"  # slow is not broken
                await asyncio.wait({sending}, timeout=0.2)  # look again, or go on when all are acknowledged
            await sending

        asyncio.run(send_and_look())
        gateway.kill()
    assert len(sender.acked) == 4
    assert_all_stored(store, sender)


def write_history(store: Path, cows: int, minutes: int) -> None:
    """Minutes of a herd up to now, straight into a store at rest."""
    database = Database.open(store)
    try:
        now_ms = int(store.stat().st_mtime) * 1000
        for minute in range(minutes):
            at_ms = now_ms - 60_000 * (minutes - minute)
            batch = [
                Reading(f"COW_{n:03d}", at_ms, 38.5, 0.1, 0.2, -0.9, received_ms=at_ms) for n in range(cows)
            ]
            database.write_now(partial(readings.append, readings=batch))
    finally:
        database.close_now()


def damage_newest_leaf(store: Path) -> int:
    """Zero the leaf that holds the newest readings but one; returns its rows."""
    data = store.read_bytes()
    leaves = damage.leaves(data, damage.root_of(store, "hot_readings"))
    number = list(leaves)[-2]
    store.write_bytes(damage.zeroed(data, number))
    return leaves[number]


def count(store: Path) -> int:
    with closing(sqlite3.connect(store)) as db:
        return int(db.execute("SELECT count(*) FROM hot_readings").fetchone()[0])


def test_a_damaged_store_is_replaced_salvaged_and_told_of(tmp_path: Path) -> None:
    port, http_port = free_ports(2)
    home = tmp_path / "barn"
    store = home / "data" / "alert_state.db"
    write_history(store, cows=20, minutes=200)
    lost = damage_newest_leaf(store)
    bad = store.read_bytes()
    with running_gateway(home, port, http_port, **QUICK) as gateway:
        sender = Sender(port)
        asyncio.run(sender.send(5))
        gateway.wait_for_log("were salvaged")
        until(lambda: "critical" in gateway.get("/api/alerts?state=open"), "the alert about it")
        told = gateway.get("/api/alerts")
        (kept,) = store.parent.glob("*.bad-*Z")
        assert kept.name in told
        assert f"{4000 - lost:,} readings" in told
        assert "could not be read" in told
        assert gateway.stop() == 0
        told_n = gateway.log().count("The store was damaged")
    assert told_n > 0
    assert kept.read_bytes() == bad
    assert count(store) == 4000 - lost + 5
    with running_gateway(home, port, http_port, **QUICK) as gateway:
        assert len(list(store.parent.glob("*.bad-*Z"))) == 1
        assert gateway.log().count("The store was damaged") == told_n


@pytest.mark.soak
def test_damage_met_while_running_ends_the_process_once_and_the_next_start_salvages(tmp_path: Path) -> None:
    """A store too big to be checked whole at its opening; the windows' rebuild meets the damage."""
    port, http_port = free_ports(2)
    home = tmp_path / "barn"
    store = home / "data" / "alert_state.db"
    write_history(store, cows=1000, minutes=470)
    assert store.stat().st_size > 16 * 2**20
    lost = damage_newest_leaf(store)
    with running_gateway(home, port, http_port, wait=False, **QUICK) as gateway:
        assert gateway.process.wait(timeout=60) == 2
    assert store.with_name(store.name + ".damaged").exists()
    with running_gateway(home, port, http_port, **QUICK) as gateway:
        gateway.wait_for_log("were salvaged", timeout_s=300)
        assert gateway.stop() == 0
    assert count(store) == 470_000 - lost
    started = re.findall("Testing database connection", gateway.log())
    assert len(started) == 2
