"""The newest readings, of every animal or in a row. Functions over a connection; they read only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from gateway.core.readings import Reading
from gateway.store import chunks
from gateway.store.rows import HOUR_MS, Row, decode


def latest(db: sqlite3.Connection, limit: int) -> list[Reading]:
    """The newest reading of each animal, newest first, at most `limit` animals.

    Raises:
        ChunkError: a packed hour is damaged.
    """
    newest: list[Reading] = []
    packed_until = chunks.newest_hour(db)
    hours = db.execute("SELECT DISTINCT last_hour FROM animals ORDER BY last_hour DESC").fetchall()
    for (hour,) in hours:
        if len(newest) >= limit:
            break
        found = _newest_hot(db, hour)
        if hour <= packed_until:
            for cow_id, row in _newest_packed(db, hour):
                if cow_id not in found or found[cow_id][0] < row[0]:
                    found[cow_id] = row
        ordered = sorted(found.items(), key=lambda one: (-one[1][0], one[1][1]))
        newest.extend(decode(row, cow_id) for cow_id, row in ordered)
    return newest[:limit]


def recent(db: sqlite3.Connection, cow_id: str | None, limit: int) -> list[Reading]:
    """The newest readings by instant, newest first; of one animal, or of all (None).

    Raises:
        ChunkError: a packed hour is damaged.
    """
    animals: dict[int, tuple[str, int, int]] = {
        number: (name, first_hour, last_hour)
        for number, name, first_hour, last_hour in db.execute(
            "SELECT id, cow_id, first_hour, last_hour FROM animals WHERE ?1 IS NULL OR cow_id = ?1", (cow_id,)
        )
    }
    if not animals:
        return []
    from_hour = min(first for _, first, _ in animals.values())
    to_hour = max(last for _, _, last in animals.values()) + 1
    if cow_id is None:
        order = "ORDER BY ts_ms DESC, animal DESC LIMIT ?"
        rows: list[Row] = db.execute(f"SELECT * FROM hot {order}", (limit,)).fetchall()
        packed = _packed_backwards(db)
    else:
        (number,) = animals
        span = from_hour * HOUR_MS, to_hour * HOUR_MS
        rows = db.execute(
            "SELECT * FROM hot WHERE ts_ms >= ? AND ts_ms < ? AND animal = ? ORDER BY ts_ms DESC LIMIT ?",
            (*span, number, limit),
        ).fetchall()
        packed = _packed_of(db, number, range(min(to_hour - 1, chunks.newest_hour(db)), from_hour - 1, -1))
    for hour, number, data in packed:
        if len(rows) >= limit and rows[limit - 1][0] >= (hour + 1) * HOUR_MS:
            break
        rows += chunks.rows_of(data, number)
        rows.sort(key=lambda row: (-row[0], -row[1]))
        del rows[limit:]
    return [decode(row, animals[row[1]][0]) for row in rows]


def _newest_hot(db: sqlite3.Connection, hour: int) -> dict[str, Row]:
    """Of the animals whose last hour this is: their newest row of `hot`."""
    rows = db.execute(
        """WITH last AS (
            SELECT max(ts_ms) AS ts_ms, animal FROM hot
            WHERE ts_ms >= :from_ms AND ts_ms < :to_ms
                AND animal IN (SELECT id FROM animals WHERE last_hour = :hour)
            GROUP BY animal)
        SELECT a.cow_id, h.* FROM last
            CROSS JOIN hot h ON h.ts_ms = last.ts_ms AND h.animal = last.animal
            CROSS JOIN animals a ON a.id = h.animal""",
        {"from_ms": hour * HOUR_MS, "to_ms": (hour + 1) * HOUR_MS, "hour": hour},
    )
    return {cow_id: row for cow_id, *row in rows}


def _newest_packed(db: sqlite3.Connection, hour: int) -> Iterator[tuple[str, Row]]:
    rows = db.execute(
        "SELECT a.cow_id, a.id, c.data FROM animals a CROSS JOIN chunks c"
        " ON c.slice = (a.last_hour << ?) | a.id WHERE a.last_hour = ?",
        (chunks.ANIMAL_BITS, hour),
    )
    for cow_id, number, data in rows:
        with chunks.named(hour, number):
            yield cow_id, chunks.rows_of(data, number)[-1]


def _packed_backwards(db: sqlite3.Connection) -> Iterator[tuple[int, int, bytes]]:
    for slice_, data in db.execute("SELECT slice, data FROM chunks ORDER BY slice DESC"):
        yield (*chunks.hour_and_animal(slice_), data)


def _packed_of(db: sqlite3.Connection, number: int, hours: range) -> Iterator[tuple[int, int, bytes]]:
    for hour in hours:
        data = chunks.get(db, hour, number)
        if data is not None:
            yield hour, number, data
