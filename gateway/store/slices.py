"""What bulk destinations have not got yet. Functions over a connection.

A slice is undelivered from the commit that adds to it until it was shipped whole. To be shipped it
is claimed under a number; a reading that comes meanwhile takes the claim away, so that the
acknowledgement does not clear it. Thus readings of a slice that is noted already write nothing here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from gateway.core.outbox import Slice
from gateway.store import meta, slice_key
from gateway.store.journal import SliceKey


def touch(db: sqlite3.Connection, slices: Iterable[SliceKey]) -> None:
    """Note slices that have got readings."""
    db.executemany(
        "INSERT INTO undelivered (hour, animal, claim) SELECT ?, value, 0 FROM json_each(?) WHERE true"
        " ON CONFLICT (hour, animal) DO UPDATE SET claim = 0 WHERE claim <> 0",
        slice_key.by_period(slices),
    )


def waiting(db: sqlite3.Connection) -> bool:
    """Whether any slice is."""
    return db.execute("SELECT 1 FROM undelivered LIMIT 1").fetchone() is not None


def claim(db: sqlite3.Connection, limit: int) -> list[Slice]:
    """Take slices for shipping, oldest hour first; their rev is the number of the claim.

    Claims are never used twice in a store, and grow: a receiver may drop what has a lower rev.
    """
    rows = db.execute(
        "SELECT d.hour, d.animal, a.cow_id FROM undelivered d CROSS JOIN animals a ON a.id = d.animal"
        " ORDER BY d.hour, d.animal LIMIT ?",
        (limit,),
    ).fetchall()
    if not rows:
        return []
    number = meta.add(db, "claims", 1)
    db.executemany(
        "UPDATE undelivered SET claim = ? WHERE hour = ? AND animal = ?",
        ((number, hour, animal) for hour, animal, _ in rows),
    )
    return [Slice(hour=hour, cow_id=cow_id, rev=number) for hour, _, cow_id in rows]


def delivered(db: sqlite3.Connection, part: Slice) -> None:
    """Clear a slice, unless it has changed since it was claimed."""
    db.execute(
        "DELETE FROM undelivered WHERE hour = ? AND claim = ?"
        " AND animal = (SELECT id FROM animals WHERE cow_id = ?)",
        (part.hour, part.rev, part.cow_id),
    )
