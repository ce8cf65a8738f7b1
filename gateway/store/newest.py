"""The newest readings, of every animal or in a row. Functions over a connection; they read only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from gateway.core.instants import HOUR_MS
from gateway.core.readings import Reading
from gateway.store import chunks, hot, slice_key
from gateway.store.rows import Row, decode
from gateway.store.transactions import snapshot


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
        found = dict(hot.newest_of_hour(db, hour))
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
    with snapshot(db):  # a reading that is packed meanwhile would stand in both of its homes
        return _recent(db, cow_id, limit)


def _recent(db: sqlite3.Connection, cow_id: str | None, limit: int) -> list[Reading]:
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
        rows = hot.newest_rows(db, limit)
        packed = _packed_backwards(db)
    else:
        (number,) = animals
        rows = hot.newest_rows(db, limit, number, (from_hour * HOUR_MS, to_hour * HOUR_MS))
        packed = _packed_of(db, number, range(min(to_hour - 1, chunks.newest_hour(db)), from_hour - 1, -1))
    for hour, number, data in packed:
        if len(rows) >= limit and rows[limit - 1][0] >= (hour + 1) * HOUR_MS:
            break
        rows += chunks.rows_of(data, number)
        rows.sort(key=lambda row: (-row[0], -row[1]))
        del rows[limit:]
    return [decode(row, animals[row[1]][0]) for row in rows]


def _newest_packed(db: sqlite3.Connection, hour: int) -> Iterator[tuple[str, Row]]:
    rows = db.execute(
        "SELECT a.cow_id, a.id, c.data FROM animals a CROSS JOIN chunks c"
        " ON c.slice = (a.last_hour << ?) | a.id WHERE a.last_hour = ?",
        (slice_key.ANIMAL_BITS, hour),
    )
    for cow_id, number, data in rows:
        with chunks.named(hour, number):
            yield cow_id, chunks.rows_of(data, number)[-1]


def _packed_backwards(db: sqlite3.Connection) -> Iterator[tuple[int, int, bytes]]:
    for slice_, data in db.execute("SELECT slice, data FROM chunks ORDER BY slice DESC"):
        yield (*slice_key.apart(slice_), data)


def _packed_of(db: sqlite3.Connection, number: int, hours: range) -> Iterator[tuple[int, int, bytes]]:
    for hour in hours:
        data = chunks.get(db, hour, number)
        if data is not None:
            yield hour, number, data
