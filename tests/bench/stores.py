"""The stores that are measured: the gateway's own, and those that were not chosen."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tinydb import TinyDB, where

from gateway.core.findings import Finding
from gateway.core.readings import Reading, wire_fields
from gateway.core.retention import RetentionPolicy
from gateway.drivers.clock import ManualClock
from gateway.services.housekeep import Housekeep
from gateway.store import readings, rows
from gateway.store.database import Database
from tests.bench.barn_day import HOUR_MS, START_MS
from tests.bench.log_frames import frames

DAY_MS = 24 * HOUR_MS


class Store(Protocol):
    """What the rigs ask of a store."""

    def put(self, batch: Sequence[Reading]) -> None:
        """Store a batch durably: returns once it is on disk."""
        ...

    def hour_passed(self, now_ms: int) -> None:
        """Do the housekeeping of an hour."""
        ...

    def frames(self, batches: Sequence[Sequence[Reading]]) -> Counter[str]:
        """Store the batches; log frames by table, of all of them together."""
        ...

    def at_rest(self, now_ms: int) -> tuple[int, int]:
        """(bytes in use, readings) after everything was made as small as it gets."""
        ...

    def delete_first_day(self) -> float:
        """Seconds the writer is busy with deleting the first day."""
        ...

    def close(self) -> None: ...


class GatewayStore:
    """The product's: `Database`, `readings.append` as ingest uses it, and the real housekeeping."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "alert_state.db"
        self.database = Database.open(self.path)
        self._clock = ManualClock(START_MS)
        self.housekeep = Housekeep(
            clock=self._clock,
            database=self.database,
            policy=RetentionPolicy(),
            budget_bytes=lambda: 2**62,
            destinations=(),
            readings_wanted=False,
            report=_raise,
        )

    def put(self, batch: Sequence[Reading]) -> None:
        self.database.write_now(lambda db: readings.append(db, batch))

    def hour_passed(self, now_ms: int) -> None:
        asyncio.run(self._keep(now_ms))

    async def _keep(self, now_ms: int) -> None:
        """Run housekeeping at an instant until nothing is left to do."""
        await self._clock.advance_to(now_ms)
        done = -1
        while done != (done := self.housekeep.counters.total() - self.housekeep.counters["runs"]):
            await self.housekeep.run()

    def frames(self, batches: Sequence[Sequence[Reading]]) -> Counter[str]:
        self.database.write_now(lambda db: db.execute("PRAGMA wal_autocheckpoint = 0").fetchall())
        _restart_log(self.path)
        for batch in batches:
            self.put(batch)
        return frames(self.path).by_table

    def at_rest(self, now_ms: int) -> tuple[int, int]:
        asyncio.run(self._keep(now_ms))
        (hot,) = self.database.read_now(lambda db: db.execute("SELECT count(*) FROM hot_readings").fetchone())
        assert hot == 0, f"{hot} readings are not packed"
        query = "SELECT sum(rows_n) FROM chunks"
        (count,) = self.database.read_now(lambda db: db.execute(query).fetchone())
        return self.database.read_now(_bytes_in_use), count

    def delete_first_day(self) -> float:
        """A whole round of housekeeping, in which the retention of 90 days reaches the first day."""
        (day,) = self.database.read_now(
            lambda db: db.execute(
                "SELECT sum(rows_n) FROM chunks WHERE arrival_hour < ?", ((START_MS + DAY_MS) // HOUR_MS,)
            ).fetchone()
        )
        now_ms = START_MS + DAY_MS + round(RetentionPolicy().readings_days * DAY_MS)
        asyncio.run(self._clock.advance_to(now_ms))
        began = time.perf_counter()
        asyncio.run(self.housekeep.run())
        took_s = time.perf_counter() - began
        assert self.housekeep.dropped["dropped_readings"] == day > 0
        return took_s

    def close(self) -> None:
        self.database.close_now()


class CowFirstStore:
    """The obvious SQLite table: the same columns and pragmas, but the key (animal, instant)."""

    _SCHEMA = """CREATE TABLE readings (
        animal INTEGER NOT NULL, ts_ms INTEGER NOT NULL,
        temperature_centi INTEGER NOT NULL, fxa_milli INTEGER NOT NULL, mya_milli INTEGER NOT NULL,
        rza_milli INTEGER NOT NULL, sxg_centi INTEGER, lyg_centi INTEGER, dzg_centi INTEGER, state,
        motion_milli INTEGER, received_ms INTEGER NOT NULL, flags INTEGER NOT NULL,
        PRIMARY KEY (animal, ts_ms)) WITHOUT ROWID"""
    _INSERT = f"INSERT OR IGNORE INTO readings VALUES ({', '.join('?' * 13)})"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.path = directory / "cow_first.db"
        self._animals: dict[str, int] = {}
        self._db = sqlite3.connect(self.path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 1000"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._db.execute(self._SCHEMA)

    def put(self, batch: Sequence[Reading]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(self._INSERT, map(self._row, batch))
        self._db.execute("COMMIT")

    def _row(self, reading: Reading) -> rows.Row:
        animal = self._animals.setdefault(reading.cow_id, len(self._animals) + 1)
        row = rows.encode(reading, animal)
        return (animal, row[0], *row[2:])

    def hour_passed(self, now_ms: int) -> None:
        """Nothing is packed or rolled up here."""

    def frames(self, batches: Sequence[Sequence[Reading]]) -> Counter[str]:
        self._db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        _restart_log(self.path)
        for batch in batches:
            self.put(batch)
        return frames(self.path).by_table

    def at_rest(self, now_ms: int) -> tuple[int, int]:
        (count,) = self._db.execute("SELECT count(*) FROM readings").fetchone()
        return _bytes_in_use(self._db), count

    def delete_first_day(self) -> float:
        began = time.perf_counter()
        self._db.execute("DELETE FROM readings WHERE ts_ms < ?", (START_MS + DAY_MS,)).fetchall()
        return time.perf_counter() - began

    def close(self) -> None:
        self._db.close()


class TinyDbStore:
    """TinyDB with its default storage: one JSON file, rewritten and synced by every insert."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.path = directory / "readings.json"
        self._db = TinyDB(self.path)

    def put(self, batch: Sequence[Reading]) -> None:
        self._db.insert_multiple({**wire_fields(one), "timestamp_ms": one.timestamp_ms} for one in batch)

    def hour_passed(self, now_ms: int) -> None:
        """Nothing to do."""

    def frames(self, batches: Sequence[Sequence[Reading]]) -> Counter[str]:
        return Counter()

    def at_rest(self, now_ms: int) -> tuple[int, int]:
        return self.path.stat().st_size, len(self._db)

    def delete_first_day(self) -> float:
        began = time.perf_counter()
        self._db.remove(where("timestamp_ms") < START_MS + DAY_MS)
        return time.perf_counter() - began

    def close(self) -> None:
        self._db.close()


async def _raise(findings: list[Finding]) -> None:
    raise AssertionError(f"the housekeeping has something to tell: {findings}")


def _restart_log(path: Path) -> None:
    """Fold the log into the file, so that the next commit begins it anew."""
    db = sqlite3.connect(path)
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    db.close()
    assert not busy


def _bytes_in_use(db: sqlite3.Connection) -> int:
    """Pages that hold something: what the file would shrink to; free ones are used again by new rows."""
    pages = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")}
    (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    return int(page_bytes * (pages["page_count"] - pages["freelist_count"]))
