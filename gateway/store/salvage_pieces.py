"""What a piece of a salvage writes into the running store. In the writer's thread, one transaction each.

What is there already stays: a reading goes the way every reading goes, and a packed hour is taken
as it is only where the store has nothing of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import msgspec

from gateway.core.instants import HOUR_MS
from gateway.core.readings import Reading
from gateway.store import chunks, hot, journal, readings, rows, slice_key, slices
from gateway.store.rows import Row

Piece = Callable[[sqlite3.Connection], int]
"""Work for the writer; returns how many readings it stored that were not there."""


class PartOfHour(msgspec.Struct, frozen=True):
    """An animal's hour; `animal` is its number in the source."""

    hour: int
    animal: int
    cow_id: str


class WholeChunk(msgspec.Struct, frozen=True):
    """A packed hour whose checksum is good, with its rows."""

    part: PartOfHour
    arrival_hour: int
    rows: list[Row]
    data: bytes


def append(
    part: list[Reading], parts: dict[tuple[int, int], PartOfHour], undelivered: set[PartOfHour]
) -> Piece:
    """Store readings as if they came from their collars, but note no slice that was delivered."""

    def work(db: sqlite3.Connection) -> int:
        delivered = [one for one in parts.values() if one not in undelivered and not _waits(db, one)]
        outcomes = readings.append(db, part)
        db.executemany(
            "DELETE FROM undelivered WHERE hour = ? AND animal = (SELECT id FROM animals WHERE cow_id = ?)",
            ((one.hour, one.cow_id) for one in delivered),
        )
        return outcomes.count(readings.Outcome.STORED)

    return work


def _waits(db: sqlite3.Connection, part: PartOfHour) -> bool:
    query = "SELECT 1 FROM undelivered WHERE hour = ? AND animal = (SELECT id FROM animals WHERE cow_id = ?)"
    return db.execute(query, (part.hour, part.cow_id)).fetchone() is not None


def insert_chunks(part: list[WholeChunk], undelivered: set[PartOfHour]) -> Piece:
    """As they are where the new store has nothing of the hour; reading by reading where it has."""

    def work(db: sqlite3.Connection) -> int:
        numbers = dict(db.execute("SELECT cow_id, id FROM animals"))
        taken = {hour: _animals_in(db, hour) for hour in {chunk.part.hour for chunk in part}}
        stored = 0
        for chunk in part:
            one = chunk.part
            number = numbers.get(one.cow_id)
            if number is None or number in taken[one.hour] or chunks.get(db, one.hour, number) is not None:
                merged = [rows.decode(row, one.cow_id) for row in chunk.rows]
                keys = {(one.hour, one.animal): one}
                stored += append(merged, keys, {one} & undelivered)(db)
                continue
            db.execute(
                "INSERT INTO chunks (slice, rows_n, arrival_hour, data) VALUES (?, ?, ?, ?)",
                (slice_key.of(one.hour, number), len(chunk.rows), chunk.arrival_hour, chunk.data),
            )
            journal.mark(db, [(chunk.arrival_hour, one.hour, number)])
            readings.widen_hours(db, {(one.hour, number)})
            if one in undelivered:
                slices.touch(db, [(one.hour, number)])
            stored += len(chunk.rows)
        return stored

    return work


def _animals_in(db: sqlite3.Connection, hour: int) -> set[int]:
    """Whoever has readings of this hour that are not packed."""
    return set(hot.table(db, (), hour * HOUR_MS, (hour + 1) * HOUR_MS)[:, 1].tolist())


def insert_rollups(db: sqlite3.Connection, part: list[tuple[int, str, int, bytes]]) -> int:
    """Hourly figures of days the new store has none of."""
    numbers = dict(db.execute("SELECT cow_id, id FROM animals"))
    db.executemany(
        "INSERT OR IGNORE INTO rollups (day_animal, arrival_hour, data) VALUES (?, ?, ?)",
        (
            (slice_key.of(day, numbers[cow_id]), arrival_hour, data)
            for day, cow_id, arrival_hour, data in part
            if cow_id in numbers
        ),
    )
    return 0
