"""What is let go, and when: by age from arrival, and by bytes. Functions over a connection.

Each call is one short transaction's work; the order and the limits are the housekeeping's. Whatever
goes is counted in `meta` for good.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

import msgspec

from gateway.core.instants import HOURS_PER_DAY
from gateway.store import journal, meta, outbox, slice_key

ROWS_PER_STEP = 500
"""Rows of the smaller tables that one call deletes: about 5 ms."""


class Dropped(msgspec.Struct, frozen=True):
    """What a call let go: readings, and those of them that no destination had got."""

    readings: int = 0
    undelivered: int = 0


class Size(msgspec.Struct, frozen=True):
    """Bytes of the store file: all of it, and what is in use (the rest is room for what comes)."""

    file_bytes: int
    used_bytes: int


def size(db: sqlite3.Connection) -> Size:
    """Of the file as this connection sees it; the log beside it not counted."""
    (page,) = db.execute("PRAGMA page_size").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    return Size(pages * page, (pages - free) * page)


def arrival_hours(
    db: sqlite3.Connection, before_hour: int, limit: int, *, undelivered_too: bool
) -> list[int]:
    """The oldest arrival hours before one with readings that may go: packed, hence rolled up.

    Args:
        db: any connection.
        before_hour: hours since 1970.
        limit: the most to answer.
        undelivered_too: False leaves out hours in which everything still waits for a destination.
    """
    until = min(before_hour, journal.cursors(db).packed_hour + 1)
    rows = db.execute(
        "SELECT DISTINCT arrival_hour FROM arrived a WHERE arrival_hour < ? AND (? OR NOT EXISTS"
        " (SELECT 1 FROM undelivered d WHERE d.hour = a.hour AND d.animal = a.animal))"
        " ORDER BY arrival_hour LIMIT ?",
        (until, undelivered_too, limit),
    )
    return [hour for (hour,) in rows]


def drop_readings(db: sqlite3.Connection, arrival_hour: int, *, undelivered_too: bool) -> Dropped:
    """Let the packed readings of an arrival hour go; their hourly figures stay.

    Args:
        db: a writing connection.
        arrival_hour: hours since 1970.
        undelivered_too: whether also those that a destination still waits for.
    """
    wanted: set[journal.SliceKey] = set(
        db.execute(
            "SELECT a.hour, a.animal FROM arrived a"
            " CROSS JOIN undelivered d ON d.hour = a.hour AND d.animal = a.animal WHERE a.arrival_hour = ?",
            (arrival_hour,),
        )
    )
    kept = set() if undelivered_too else wanted
    going = [one for one in journal.slices_of(db, arrival_hour) if one not in kept]
    readings = waiting = 0
    for hour, animal in going:
        row = db.execute(
            "DELETE FROM chunks WHERE slice = ? AND arrival_hour <= ? RETURNING rows_n",
            (slice_key.of(hour, animal), arrival_hour),
        ).fetchone()
        if row is not None:
            readings += row[0]
            waiting += row[0] if (hour, animal) in wanted else 0
    journal.forget(db, arrival_hour, going)
    # A slice that has got a late reading since is still to be delivered.
    alive = journal.slices_after(db, journal.cursors(db).packed_hour)
    gone = [one for one in going if one in wanted and one not in alive]
    db.executemany("DELETE FROM undelivered WHERE hour = ? AND animal = ?", gone)
    count(db, "dropped_readings", readings)
    count(db, "dropped_undelivered", waiting)
    return Dropped(readings, waiting)


def drop_rollups(db: sqlite3.Connection, before_hour: int) -> int:
    """Hourly figures of days, and of arrivals, before an hour; at most `ROWS_PER_STEP` days of animals."""
    gone = db.execute(
        "DELETE FROM rollups WHERE day_animal IN (SELECT day_animal FROM rollups"
        " WHERE day_animal < ? AND arrival_hour < ? ORDER BY day_animal LIMIT ?)",
        (slice_key.of(before_hour // HOURS_PER_DAY, 0), before_hour, ROWS_PER_STEP),
    ).rowcount
    count(db, "dropped_rollups", gone)
    return gone


def drop_alerts(db: sqlite3.Connection, before_ms: int) -> int:
    """Alerts that ended before an instant, with their history; open ones never go."""
    ids = db.execute(
        "SELECT id FROM alert_episodes WHERE ended_ms < ? ORDER BY id LIMIT ?", (before_ms, ROWS_PER_STEP)
    ).fetchall()
    db.executemany("DELETE FROM alert_history WHERE alert_id = ?", ids)
    db.executemany("DELETE FROM alert_episodes WHERE id = ?", ids)
    count(db, "dropped_alerts", len(ids))
    return len(ids)


def drop_dead_letters(db: sqlite3.Connection, before_ms: int) -> int:
    """Rejected messages that came before an instant."""
    gone = db.execute(
        "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE received_ms < ?"
        " ORDER BY received_ms LIMIT ?)",
        (before_ms, ROWS_PER_STEP),
    ).rowcount
    count(db, "dropped_dead_letters", gone)
    return gone


def drop_events(db: sqlite3.Connection, before_ms: int, destinations: Collection[str]) -> int:
    """Outbox entries made before an instant that every one of the destinations has acknowledged."""
    until = min((outbox.cursor(db, name) for name in destinations), default=2**62)
    gone = db.execute(
        "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq <= ? AND created_ms < ?"
        " ORDER BY seq LIMIT ?)",
        (until, before_ms, ROWS_PER_STEP),
    ).rowcount
    count(db, "dropped_events", gone)
    return gone


def count(db: sqlite3.Connection, what: str, n: int) -> None:
    """Add to a counter that lives as long as the store."""
    if n:
        meta.add(db, what, n)


def dropped(db: sqlite3.Connection) -> dict[str, int]:
    """All counters of what was let go since the store was made."""
    rows = db.execute("SELECT key, value FROM meta WHERE key LIKE 'dropped_%' ORDER BY key")
    return {str(key): int(value) for key, value in rows}


def give_back(db: sqlite3.Connection, pages: int) -> int:
    """Return up to `pages` free pages to the file system; 0 where the file cannot (made by version 1)."""
    (before,) = db.execute("PRAGMA page_count").fetchone()
    for _ in range(pages):  # the driver takes one step of the pragma, which is one page
        db.execute("PRAGMA incremental_vacuum(1)").fetchall()
    (after,) = db.execute("PRAGMA page_count").fetchone()
    return int(before - after)
