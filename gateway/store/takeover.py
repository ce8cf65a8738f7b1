"""Takes over what version 1's code has written. Runs in the thread that opens the store.

Its tables `hot` and `dirty` stay for that code (decision 42: a rollback loses nothing); whatever is in
them when this code opens the store moves to `hot_readings` and `undelivered`, a day of data a
transaction, so that a cut in the middle leaves each reading in one place.
"""

from __future__ import annotations

import sqlite3

from gateway.core.instants import DAY_MS, HOUR_MS
from gateway.store import hot, journal
from gateway.store.transactions import transaction


def take_over(db: sqlite3.Connection) -> int:
    """Move everything out of version 1's tables; returns how many readings that were."""
    moved = 0
    while True:
        (first_ms,) = db.execute("SELECT min(ts_ms) FROM hot").fetchone()
        (first_hour,) = db.execute("SELECT min(hour) FROM dirty WHERE hour > 0").fetchone()
        if first_ms is None and first_hour is None:
            return moved
        with transaction(db):
            if first_ms is not None:
                moved += _readings(db, first_ms // DAY_MS * DAY_MS)
            else:
                _slices(db)


def _readings(db: sqlite3.Connection, day_ms: int) -> int:
    span = day_ms, day_ms + DAY_MS
    journal.mark(
        db,
        db.execute(
            f"SELECT DISTINCT received_ms / {HOUR_MS}, ts_ms / {HOUR_MS}, animal FROM hot"
            " WHERE ts_ms >= ? AND ts_ms < ?",
            span,
        ).fetchall(),
    )
    db.execute(
        f"INSERT OR IGNORE INTO hot_readings ({hot.STORED})"
        f" SELECT (ts_ms << {hot.ANIMAL_BITS}) | animal, {hot.VALUES}"
        " FROM hot WHERE ts_ms >= ? AND ts_ms < ?",
        span,
    )
    return db.execute("DELETE FROM hot WHERE ts_ms >= ? AND ts_ms < ?", span).rowcount


def _slices(db: sqlite3.Connection) -> None:
    """Row (0, 0) of `dirty` is version 1's counter."""
    db.execute(
        "INSERT OR IGNORE INTO undelivered (hour, animal, claim)"
        " SELECT hour, animal, 0 FROM dirty WHERE hour > 0"
    )
    db.execute("DELETE FROM dirty WHERE hour > 0")
