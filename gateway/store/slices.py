"""What bulk destinations have not got yet. Functions over a connection.

A slice becomes dirty with the commit that adds to it and stays so until it was shipped whole. To be
shipped it is claimed under a number; a reading that comes meanwhile takes the claim away, so that
the acknowledgement does not clear it. Thus readings of a slice that is dirty already write nothing
here: `dirty` costs the card no page a commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from gateway.core.outbox import Slice
from gateway.store.journal import SliceKey


def touch(db: sqlite3.Connection, slices: Iterable[SliceKey]) -> None:
    """Note slices that have got readings."""
    db.executemany(
        "INSERT INTO dirty (hour, animal, rev) VALUES (?, ?, 0)"
        " ON CONFLICT (hour, animal) DO UPDATE SET rev = 0 WHERE rev <> 0",
        slices,
    )


def waiting(db: sqlite3.Connection) -> bool:
    """Whether any slice is dirty."""
    return db.execute("SELECT 1 FROM dirty WHERE hour > 0 LIMIT 1").fetchone() is not None


def claim(db: sqlite3.Connection, limit: int) -> list[Slice]:
    """Take dirty slices for shipping, oldest hour first; their rev is the number of the claim.

    Claims are never used twice in a store, and grow: a receiver may drop what has a lower rev.
    """
    rows = db.execute(
        "SELECT d.hour, d.animal, a.cow_id FROM dirty d CROSS JOIN animals a ON a.id = d.animal"
        " WHERE d.hour > 0 ORDER BY d.hour, d.animal LIMIT ?",
        (limit,),
    ).fetchall()
    if not rows:
        return []
    (number,) = db.execute(
        "INSERT INTO meta (key, value) VALUES ('claims', 1)"
        " ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value"
    ).fetchone()
    db.executemany(
        "UPDATE dirty SET rev = ? WHERE hour = ? AND animal = ?",
        ((-number, hour, animal) for hour, animal, _ in rows),
    )
    return [Slice(hour=hour, cow_id=cow_id, rev=number) for hour, _, cow_id in rows]


def delivered(db: sqlite3.Connection, part: Slice) -> None:
    """Clear a slice, unless it has changed since it was claimed."""
    db.execute(
        "DELETE FROM dirty WHERE hour = ? AND rev = ? AND animal = (SELECT id FROM animals WHERE cow_id = ?)",
        (part.hour, -part.rev, part.cow_id),
    )
