"""Storing readings: functions over a connection. `append` writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from enum import IntEnum

from gateway.core.instants import HOUR_MS
from gateway.core.readings import Reading
from gateway.errors import StoreError
from gateway.store import chunks, hot, journal, slice_key, slices
from gateway.store.rows import Row, encode


class Outcome(IntEnum):
    """What became of one reading (decision 8)."""

    STORED = 0
    DUPLICATE = 1
    CONFLICT = 2


def append(db: sqlite3.Connection, readings: Sequence[Reading]) -> list[Outcome]:
    """Store a batch; the first reading of an (animal, instant) wins, also within the batch.

    A second one with the same values (at the stored resolution; arrival does not count) is a
    DUPLICATE, with others a CONFLICT; a reading of a packed hour is compared with its chunk
    (decision 43), if that can be read. What was stored is noted for uplink and journal in the
    same transaction.
    """
    if not readings:
        return []
    animals = _animals(db, readings)
    packed_until = chunks.newest_hour(db)
    rows = [encode(reading, animals[reading.cow_id]) for reading in readings]
    cursor = db.cursor()
    outcomes: list[Outcome] = []
    if min(row[0] for row in rows) // HOUR_MS > packed_until:
        outcomes += [Outcome.STORED] * hot.insert_until_known(cursor, rows)
    for row in rows[len(outcomes) :]:
        hour = row[0] // HOUR_MS
        held = _packed_row(db, hour, row) if hour <= packed_until else None
        if held is None and hot.insert(cursor, row):
            outcomes.append(Outcome.STORED)
            continue
        if held is None:
            held = hot.row_at(cursor, row[0], row[1])
        outcomes.append(Outcome.DUPLICATE if _same(held, row) else Outcome.CONFLICT)
    touched = {
        (row[11] // HOUR_MS, row[0] // HOUR_MS, row[1])
        for row, outcome in zip(rows, outcomes, strict=True)
        if outcome is Outcome.STORED
    }
    if touched:
        changed = {(hour, animal) for _, hour, animal in touched}
        slices.touch(db, changed)
        journal.mark(db, touched)
        widen_hours(db, changed)
    return outcomes


def animal_count(db: sqlite3.Connection) -> int:
    """How many animals have ever sent a reading (the bound is ingest's, decision 9)."""
    (count,) = db.execute("SELECT count(*) FROM animals").fetchone()
    return int(count)


def _animals(db: sqlite3.Connection, readings: Sequence[Reading]) -> dict[str, int]:
    """cow_id → animal id, giving ids to those never seen."""
    # Asked per batch: a cache kept over batches would have to be undone with every rollback.
    first_seen: dict[str, int] = {}
    for reading in readings:
        first_seen.setdefault(reading.cow_id, reading.timestamp_ms // HOUR_MS)
    query = "SELECT cow_id, id FROM animals WHERE cow_id IN (SELECT value FROM json_each(?))"
    wanted = json.dumps(list(first_seen))
    found: dict[str, int] = dict(db.execute(query, (wanted,)))
    if len(found) < len(first_seen):
        db.executemany(
            "INSERT INTO animals (cow_id, first_hour, last_hour) VALUES (?, ?, ?)",
            ((cow, hour, hour) for cow, hour in first_seen.items() if cow not in found),
        )
        found = dict(db.execute(query, (wanted,)))
        if max(found.values()) > hot.ANIMALS_MAX:
            raise StoreError(
                f"the store has numbers for {hot.ANIMALS_MAX} animals, and there would be one more",
                "check for collars that invent ids",
            )
    return found


def _packed_row(db: sqlite3.Connection, hour: int, row: Row) -> Row | None:
    """What the slice's chunk holds for the row's instant."""
    data = chunks.get(db, hour, row[1])
    if data is None:
        return None
    try:
        return chunks.by_instant(data).get(row[0])
    except chunks.ChunkError:  # no reason to refuse a reading; rolling it up meets the chunk, too
        return None


def _same(held: Row | None, row: Row) -> bool:
    """Whether the collar sent the same values; arrival and flags do not count."""
    return held is not None and held[2:11] == row[2:11]


def widen_hours(db: sqlite3.Connection, touched: set[tuple[int, int]]) -> None:
    """Keep each animal's first and last hour; most batches change neither and write nothing."""
    db.executemany(
        "UPDATE animals SET first_hour = min(first_hour, ?1), last_hour = max(last_hour, ?1)"
        " WHERE id IN (SELECT value FROM json_each(?2)) AND (first_hour > ?1 OR last_hour < ?1)",
        slice_key.by_period(touched),
    )
