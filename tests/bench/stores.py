"""The stores that are measured: the gateway's own, and those that were not chosen."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tinydb import TinyDB, where

from gateway.core.readings import Reading, wire_fields
from gateway.store import readings
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
    """The product's: `Database` and `readings.append`, as ingest uses them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "alert_state.db"
        self.database = Database.open(self.path)

    def put(self, batch: Sequence[Reading]) -> None:
        self.database.write_now(lambda db: readings.append(db, batch))

    def hour_passed(self, now_ms: int) -> None:
        pass

    def frames(self, batches: Sequence[Sequence[Reading]]) -> Counter[str]:
        self.database.write_now(lambda db: db.execute("PRAGMA wal_autocheckpoint = 0").fetchall())
        _restart_log(self.path)
        for batch in batches:
            self.put(batch)
        return frames(self.path).by_table

    def at_rest(self, now_ms: int) -> tuple[int, int]:
        (count,) = self.database.read_now(lambda db: db.execute("SELECT count(*) FROM hot").fetchone())
        return self.database.read_now(_bytes_in_use), count

    def delete_first_day(self) -> float:
        began = time.perf_counter()
        self.database.write_now(
            lambda db: db.execute("DELETE FROM hot WHERE ts_ms < ?", (START_MS + DAY_MS,)).fetchall()
        )
        return time.perf_counter() - began

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

    def _row(self, reading: Reading) -> tuple[object, ...]:
        return (
            self._animals.setdefault(reading.cow_id, len(self._animals) + 1),
            reading.timestamp_ms,
            round(reading.temperature_c * 100),
            *(round(g * 1000) for g in (reading.fxa_g, reading.mya_g, reading.rza_g)),
            *(None if v is None else round(v * 100) for v in (reading.sxg_dps, reading.lyg_dps)),
            None if reading.dzg_dps is None else round(reading.dzg_dps * 100),
            readings.STATE_CODES.get(reading.state or "", reading.state),
            reading.motion_intensity,
            reading.received_ms,
            reading.flags,
        )

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
