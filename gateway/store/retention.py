"""What is let go, and when: by age from arrival, and by bytes. Functions over a connection.

Each call is one short transaction's work; the order and the limits are the housekeeping's. Whatever
goes is counted in `meta` for good.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

import msgspec

from gateway.core.instants import HOURS_PER_DAY
from gateway.store import journal, meta, outbox, slice_key

ROWS_PER_STEP = 500
"""Rows of the smaller tables that one call deletes: about 5 ms."""


SLICES_PER_STEP = 200
"""Slices that one call lets go: their notes of later arrivals are looked up by hour of data, at most 50
arrival hours each, about 10 ms."""


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


def droppable(db: sqlite3.Connection, arrival_hour: int, *, undelivered_too: bool) -> list[journal.SliceKey]:
    """Slices noted under an arrival hour that may go. Reads only.

    Args:
        db: any connection.
        arrival_hour: hours since 1970.
        undelivered_too: whether also those that a destination still waits for.
    """
    if undelivered_too:
        return journal.slices_of(db, arrival_hour)
    rows = db.execute(
        "SELECT hour, animal FROM arrived a WHERE arrival_hour = ? AND NOT EXISTS"
        " (SELECT 1 FROM undelivered d WHERE d.hour = a.hour AND d.animal = a.animal)",
        (arrival_hour,),
    )
    return [(hour, animal) for hour, animal in rows]


def drop_readings(
    db: sqlite3.Connection, arrival_hour: int, going: Sequence[journal.SliceKey], now_hour: int
) -> Dropped:
    """Let packed readings go whose last came in an arrival hour; their hourly figures stay.

    Args:
        db: a writing connection.
        arrival_hour: hours since 1970.
        going: of `droppable`, at most `SLICES_PER_STEP`.
        now_hour: a chunk that came later than this did so under a clock that ran ahead.
    """
    readings = waiting = 0
    alive = {
        hour: journal.animals_after(db, journal.cursors(db).packed_hour, hour)
        for hour in {hour for hour, _ in going}
    }
    for hour, animal in going:
        row = db.execute(
            "DELETE FROM chunks WHERE slice = ? AND (arrival_hour <= ? OR arrival_hour > ?) RETURNING rows_n",
            (slice_key.of(hour, animal), arrival_hour, now_hour),
        ).fetchone()
        readings += row[0] if row else 0
        if animal in alive[hour]:  # a late reading waits there: still to be packed, and to be delivered
            continue
        noted = db.execute("DELETE FROM undelivered WHERE hour = ? AND animal = ?", (hour, animal)).rowcount
        waiting += row[0] if row and noted else 0
    journal.forget(db, arrival_hour, going)
    count(db, "dropped_readings", readings)
    count(db, "dropped_undelivered", waiting)
    return Dropped(readings, waiting)


def drop_rollups(db: sqlite3.Connection, before_hour: int, now_hour: int) -> int:
    """Hourly figures of days, and of arrivals, before an hour; at most `ROWS_PER_STEP` days of animals.

    What came later than `now_hour` did so under a clock that ran ahead.
    """
    gone = db.execute(
        "DELETE FROM rollups WHERE day_animal IN (SELECT day_animal FROM rollups"
        " WHERE day_animal < ? AND (arrival_hour < ? OR arrival_hour > ?) ORDER BY day_animal LIMIT ?)",
        (slice_key.of(before_hour // HOURS_PER_DAY, 0), before_hour, now_hour, ROWS_PER_STEP),
    ).rowcount
    count(db, "dropped_rollups", gone)
    return gone


def drop_alerts(db: sqlite3.Connection, before_ms: int) -> int:
    """Alerts that ended before an instant, with their history and what was sent of them.

    Open ones never go. Silences that ended before it go, too, and whatever else was sent before it.
    """
    ids = db.execute(
        "SELECT id FROM alert_episodes WHERE ended_ms < ? ORDER BY id LIMIT ?", (before_ms, ROWS_PER_STEP)
    ).fetchall()
    db.executemany("DELETE FROM alert_history WHERE alert_id = ?", ids)
    db.executemany("DELETE FROM notices WHERE alert_id = ?", ids)
    db.executemany("DELETE FROM alert_episodes WHERE id = ?", ids)
    for table, ended in (("notices", "at_ms"), ("silences", "ended_ms")):
        db.execute(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {ended} < ? LIMIT ?)",
            (before_ms, ROWS_PER_STEP),
        )
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
