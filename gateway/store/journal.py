"""What arrived when: the journal that roll-up, packing and retention walk. Functions over a connection.

A row (arrival hour, hour of data, animal) is written by the commit that brings the first such
reading. An arrival hour is closed before it is walked, and from then on nothing is added to it:
later commits are noted under the next hour, whatever the clock says. So each walker sees each
change of a slice exactly once, and late readings need no rule of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from gateway.store import meta, slice_key

CLOSED, ROLLED, PACKED = "closed_hour", "rolled_hour", "packed_hour"
"""Cursors in `meta`: the newest arrival hour that is closed, rolled up, packed."""

UNTRUSTED = "untrusted_since"
"""In `meta` while the clock is not known to be right: notes behind this arrival hour came since."""
_FOR_EVER = 2**40

SliceKey = tuple[int, int]
"""(hour, animal)."""


class Cursors(msgspec.Struct, frozen=True):
    """How far each walker has come; arrival hours, -1 before the first."""

    closed_hour: int = -1
    rolled_hour: int = -1
    packed_hour: int = -1


def cursors(db: sqlite3.Connection) -> Cursors:
    """All cursors of this snapshot."""
    query = "SELECT key, value FROM meta WHERE key IN ('closed_hour', 'rolled_hour', 'packed_hour')"
    return Cursors(**dict(db.execute(query)))


def advance(db: sqlite3.Connection, cursor: str, arrival_hour: int) -> None:
    """Move a cursor forward; it never goes back here."""
    meta.raise_to(db, cursor, arrival_hour)


def mark(db: sqlite3.Connection, touched: Iterable[tuple[int, int, int]]) -> None:
    """Note (arrival hour, hour, animal) of stored readings; most are noted already and write nothing."""
    closed = cursors(db).closed_hour
    noted = (((max(arrival_hour, closed + 1), hour), animal) for arrival_hour, hour, animal in touched)
    db.executemany(
        "INSERT OR IGNORE INTO arrived (arrival_hour, hour, animal) SELECT ?, ?, value FROM json_each(?)",
        ((*hours, animals) for hours, animals in slice_key.by_period(noted)),
    )


def slices_of(db: sqlite3.Connection, arrival_hour: int) -> list[SliceKey]:
    """Slices that got readings in an arrival hour, by hour and animal."""
    rows = db.execute("SELECT hour, animal FROM arrived WHERE arrival_hour = ?", (arrival_hour,))
    return [(hour, animal) for hour, animal in rows]


def by_hour(db: sqlite3.Connection, arrival_hour: int) -> dict[int, set[int]]:
    """The same as animals by hour of data, hours ascending."""
    found: dict[int, set[int]] = {}
    for hour, animal in slices_of(db, arrival_hour):
        found.setdefault(hour, set()).add(animal)
    return found


def slices_after(db: sqlite3.Connection, arrival_hour: int) -> set[SliceKey]:
    """Slices that got readings later than that."""
    return set(db.execute("SELECT hour, animal FROM arrived WHERE arrival_hour > ?", (arrival_hour,)))


def animals_after(db: sqlite3.Connection, arrival_hour: int, hour: int) -> set[int]:
    """Animals that got readings of an hour of data later than that; a look-up for each arrival hour."""
    found: set[int] = set()
    while (later := next_hour(db, arrival_hour, _FOR_EVER)) is not None:
        rows = db.execute("SELECT animal FROM arrived WHERE arrival_hour = ? AND hour = ?", (later, hour))
        found.update(animal for (animal,) in rows)
        arrival_hour = later
    return found


def forget(db: sqlite3.Connection, arrival_hour: int, slices: Iterable[SliceKey]) -> None:
    """Take notes out that a later one stands for, or whose readings are gone."""
    db.executemany(
        "DELETE FROM arrived WHERE arrival_hour = ? AND hour = ? AND animal = ?",
        ((arrival_hour, hour, animal) for hour, animal in slices),
    )


def next_hour(db: sqlite3.Connection, behind: int, until: int) -> int | None:
    """The first arrival hour with slices, behind < hour ≤ until; None if there is none."""
    (hour,) = db.execute(
        "SELECT min(arrival_hour) FROM arrived WHERE arrival_hour > ? AND arrival_hour <= ?", (behind, until)
    ).fetchone()
    return None if hour is None else int(hour)


def ahead(db: sqlite3.Connection, now_hour: int) -> bool:
    """Whether the clock ran ahead: arrivals are noted, or closed, under hours that have not come yet."""
    (newest,) = db.execute("SELECT max(arrival_hour) FROM arrived").fetchone()
    return cursors(db).closed_hour > now_hour or (newest is not None and newest > now_hour + 1)


def clock_is_untrusted(db: sqlite3.Connection) -> None:
    """Note that from now on nobody knows when readings come."""
    (newest,) = db.execute(
        "SELECT max(arrival_hour) FROM arrived WHERE arrival_hour <= ?", (cursors(db).closed_hour,)
    ).fetchone()
    meta.put(db, UNTRUSTED, -1 if newest is None else int(newest))


def bring_forward(db: sqlite3.Connection, arrival_hour: int, now_hour: int) -> int:
    """Move the notes of an hour whose date was wrong to this one: what came while the clock was behind.

    Nobody knows when it really came; kept from now on it is kept long enough.

    Returns:
        Notes that were moved.
    """
    db.execute(
        "INSERT OR IGNORE INTO arrived SELECT ?, hour, animal FROM arrived WHERE arrival_hour = ?",
        (now_hour, arrival_hour),
    )
    return db.execute("DELETE FROM arrived WHERE arrival_hour = ?", (arrival_hour,)).rowcount


def rebase(db: sqlite3.Connection, now_hour: int) -> int:
    """Bring the journal back after a clock that ran ahead was set right.

    Everything noted under hours that have not come yet moves to this one, and the cursors before
    it, so that the walkers go on today and not when the wrong date comes.

    Returns:
        Notes that were moved.
    """
    moved = db.execute(
        "INSERT OR IGNORE INTO arrived SELECT ?, hour, animal FROM arrived WHERE arrival_hour > ?",
        (now_hour, now_hour),
    ).rowcount
    db.execute("DELETE FROM arrived WHERE arrival_hour > ?", (now_hour,))
    db.execute(
        "UPDATE meta SET value = min(value, ?) WHERE key IN ('closed_hour', 'rolled_hour', 'packed_hour')",
        (now_hour - 1,),
    )
    return int(moved)
