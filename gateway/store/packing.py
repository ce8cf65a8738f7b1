"""Packing: slices left alone for 48 h move from `hot_readings` into chunks. Functions over a connection.

`due` and `plan` read and encode, in a worker thread; `apply` writes a piece in one transaction: its
chunks go in and its rows go out together, so a reading is always in exactly one place. What
arrived between the two is found in the journal, and its slice is left for later.
"""

from __future__ import annotations

import sqlite3
from itertools import groupby

import msgspec

from gateway.store import chunks, hot, journal, slice_key, spans
from gateway.store.journal import SliceKey

PACK_AFTER_H = 48
"""Hours a slice is left alone before it is packed: collars that were out of reach for a night or a
day still find their hour open, and `sensor_data` shows the last two days (decision 43)."""
ROWS_PER_PIECE = 6_000
"""Readings moved in one transaction, an hour of 100 animals: about 15 ms on a laptop, of which the
deletes are most. Bigger herds take several pieces an hour; each touches the hour's pages anew."""


class Packed(msgspec.Struct, frozen=True):
    """A slice that is ready to be written."""

    slice_: SliceKey
    rows_n: int
    data: bytes


class Due(msgspec.Struct, frozen=True):
    """Slices whose last readings came in one arrival hour, at least 48 h ago.

    Args:
        arrival_hour: the journal's hour that is walked.
        seen_hour: the newest arrival hour that was closed at that moment; a slice with a later note
            has changed since.
        animals: by hour of data.
    """

    arrival_hour: int
    seen_hour: int
    animals: dict[int, set[int]]


class Piece(msgspec.Struct, frozen=True):
    """What one transaction moves: slices of one hour of data, each with all its readings."""

    due: Due
    hour: int
    packed: list[Packed]


def due(db: sqlite3.Connection, now_hour: int) -> Due | None:
    """The next arrival hour to be packed: all of it at least 48 h ago, and rolled up."""
    where = journal.cursors(db)
    until = min(now_hour - PACK_AFTER_H - 1, where.rolled_hour)
    arrival_hour = journal.next_hour(db, where.packed_hour, until)
    if arrival_hour is None:
        return None
    later = journal.slices_after(db, arrival_hour)
    found = {
        hour: {animal for animal in animals if (hour, animal) not in later}
        for hour, animals in journal.by_hour(db, arrival_hour).items()
    }
    return Due(arrival_hour, where.closed_hour, {hour: animals for hour, animals in found.items() if animals})


def plan(db: sqlite3.Connection, due: Due, hour: int) -> list[Piece]:
    """The pieces of one hour of data, encoded. Reads only.

    Raises:
        ChunkError: a chunk that late readings belong to is damaged.
    """
    pieces: list[Piece] = []
    packed: list[Packed] = []
    rows_n = 0
    rows = spans.rows_of_hour(db, hour, due.animals[hour])
    for animal, group in groupby(rows, key=lambda row: int(row[1])):
        held = list(group)
        packed.append(Packed((hour, animal), len(held), chunks.encode(held)))
        rows_n += len(held)
        if rows_n >= ROWS_PER_PIECE:
            pieces.append(Piece(due, hour, packed))
            packed, rows_n = [], 0
    if packed:
        pieces.append(Piece(due, hour, packed))
    return pieces


def apply(db: sqlite3.Connection, piece: Piece) -> int:
    """Write a piece: chunks in, rows out.

    Slices that got readings since they were read stay as they are; their later note stands for them.

    Returns:
        Rows that left `hot_readings`.
    """
    changed = journal.animals_after(db, piece.due.seen_hour, piece.hour)
    ready = [one for one in piece.packed if one.slice_[1] not in changed]
    db.executemany(
        "INSERT INTO chunks (slice, rows_n, arrival_hour, data) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (slice) DO UPDATE SET rows_n = excluded.rows_n, data = excluded.data,"
        " arrival_hour = max(arrival_hour, excluded.arrival_hour)",
        ((slice_key.of(*one.slice_), one.rows_n, piece.due.arrival_hour, one.data) for one in ready),
    )
    return hot.delete_hour(db, piece.hour, [one.slice_[1] for one in ready])


def superseded(db: sqlite3.Connection, due: Due) -> list[SliceKey]:
    """Slices of the arrival hour that got readings later: that note stands for them. Reads only."""
    later = journal.slices_after(db, due.arrival_hour)
    return [one for one in journal.slices_of(db, due.arrival_hour) if one in later]


def finish(db: sqlite3.Connection, due: Due) -> None:
    """An arrival hour is done; the walk moves on."""
    journal.advance(db, journal.PACKED, due.arrival_hour)
