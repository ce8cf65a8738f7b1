"""Publishers that go on until the power is cut, and what must then be in the store."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.load import connect_packet, publish_bytes

FIRST_S = 1_767_225_600  # 2026-01-01T00:00:00Z

Keys = set[tuple[str, int]]
"""(animal, running number of its reading)."""


def message(cow_id: str, number: int) -> tuple[str, bytes]:
    """Topic and payload of an animal's reading number `number`, one a minute; its values follow from it."""
    iso = datetime.fromtimestamp(FIRST_S + 60 * number, UTC).isoformat()
    fields = {"cow_id": cow_id, "timestamp": iso, "temperature": temperature_c(number)}
    return f"artemis/sensors/{cow_id}", json.dumps({**fields, "fxa": 0.1, "mya": 0.2, "rza": -0.9}).encode()


def temperature_c(number: int) -> float:
    return 38 + number % 100 / 100


class Acked:
    """Every (cow, number) that was acknowledged, and a signal when enough of them came."""

    def __init__(self) -> None:
        self.keys: Keys = set()
        self._target = 0
        self._enough = asyncio.Event()

    def add(self, cow_id: str, number: int) -> None:
        self.keys.add((cow_id, number))
        if len(self.keys) >= self._target:
            self._enough.set()

    async def more(self, grow: int) -> None:
        """Return when `grow` more have been acknowledged."""
        self._target = len(self.keys) + grow
        self._enough.clear()
        await self._enough.wait()


async def publish_until_cut(port: int, cow_id: str, numbers: list[int], acked: Acked) -> None:
    """Publish the next numbers one after another over a bare socket, until it breaks.

    `numbers` holds one number, the next to send, and is moved on with every acknowledgement.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return
    try:
        writer.write(connect_packet(cow_id))
        await reader.readexactly(4)
        while True:
            packet_id = numbers[0] % 65535 + 1
            topic, payload = message(cow_id, numbers[0])
            writer.write(publish_bytes(topic, payload, packet_id))
            assert await reader.readexactly(4) == b"\x40\x02" + packet_id.to_bytes(2, "big")
            acked.add(cow_id, numbers[0])
            numbers[0] += 1
    except (OSError, asyncio.IncompleteReadError):
        return
    finally:
        writer.transport.abort()


def assert_stored_once(store: Path, acked: Keys) -> int:
    """The file is sound, holds no reading twice and all of `acked`; returns how many it holds."""
    with closing(sqlite3.connect(store)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = db.execute("SELECT cow_id, timestamp, temperature FROM sensor_data").fetchall()
    stored: dict[tuple[str, int], float] = {}
    for cow_id, timestamp, temperature in rows:
        number = (int(datetime.fromisoformat(timestamp).timestamp()) - FIRST_S) // 60
        assert (cow_id, number) not in stored, "a reading is stored twice"
        stored[cow_id, number] = temperature
    lost = acked - stored.keys()
    assert not lost, f"{len(lost)} acknowledged readings are not in the store: {sorted(lost)[:5]}"
    assert all(stored[key] == temperature_c(key[1]) for key in acked)
    return len(stored)
