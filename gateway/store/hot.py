"""The table of readings as they came: everything that knows how its key is made. Functions over a connection.

`hot_readings.key` is (ts_ms << 15) | animal: time first, so a commit touches the newest page and not
one page per animal, and one whole number, so SQLite appends instead of evening pages out. Measured
beside the key (ts_ms, animal) of a WITHOUT ROWID table, 200 animals: 1.03 GB a day on the card
against 1.21, and 0.21 against 0.31 with a window of 5 s (docs/decisions.md).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.core.instants import HOUR_MS
from gateway.store.columns import MISSING
from gateway.store.rows import Row

Int64 = npt.NDArray[np.int64]

ANIMAL_BITS = 15
"""Room for 32,767 animals; decision 9 admits 5000. The year 9999 shifted by 15 bits still fits 63."""
BLOCK_ROWS = 2048
"""Rows turned into arrays at a time: 2048 × 10 Python numbers are about 0.8 MB, whatever is asked for."""
_TS_MS_END = 1 << (63 - ANIMAL_BITS)
_ANIMAL_MASK = ANIMALS_MAX = (1 << ANIMAL_BITS) - 1

VALUES = (
    "temperature_centi, fxa_milli, mya_milli, rza_milli, sxg_centi, lyg_centi, dzg_centi, state,"
    " motion_milli, received_ms, flags"
)
STORED = f"key, {VALUES}"
"""The columns that are written, in this order."""
_ROW = f"ts_ms, animal, {VALUES}"
_NULLABLE = frozenset({"sxg_centi", "lyg_centi", "dzg_centi", "motion_milli", "state"})
_INTO = f"INTO hot_readings ({STORED}) VALUES (?1 << {ANIMAL_BITS} | ?2, {', '.join('?' * 11)})"
"""Of a `Row` as it is: its first two make the key."""
_INSERT_IF_NEW = f"INSERT OR IGNORE {_INTO}"
_INSERT = f"INSERT {_INTO}"
_SPAN = "FROM hot_readings WHERE key >= ? AND key < ?"


def row_of(stored: Sequence[Any]) -> Row:
    """Columns as `STORED` has them as a row."""
    key, *values = stored
    return (key >> ANIMAL_BITS, key & _ANIMAL_MASK, *values)


def insert(cursor: sqlite3.Cursor, row: Row) -> bool:
    """Store a row; False if its animal and instant are there already."""
    return cursor.execute(_INSERT_IF_NEW, row).rowcount == 1


def insert_until_known(cursor: sqlite3.Cursor, rows: Sequence[Row]) -> int:
    """Store rows up to the first whose animal and instant are there already; returns how many those are.

    A quarter cheaper than one by one, and most batches hold nothing twice.
    """
    before = cursor.connection.total_changes
    with suppress(sqlite3.IntegrityError):
        cursor.executemany(_INSERT, rows)
    return cursor.connection.total_changes - before


def row_at(cursor: sqlite3.Cursor, ts_ms: int, animal: int) -> Row | None:
    """The row of an animal and instant."""
    query = f"SELECT {_ROW} FROM hot_readings WHERE key = ?"
    found: Row | None = cursor.execute(query, (ts_ms << ANIMAL_BITS | animal,)).fetchone()
    return found


def rows(db: sqlite3.Connection, from_ms: int, to_ms: int) -> Iterator[Row]:
    """Rows with from_ms ≤ instant < to_ms, by instant and animal."""
    return db.execute(f"SELECT {_ROW} {_SPAN} ORDER BY key", _keys(from_ms, to_ms))


def newest_rows(
    db: sqlite3.Connection, limit: int, animal: int | None = None, span_ms: tuple[int, int] = (0, _TS_MS_END)
) -> list[Row]:
    """At most `limit` rows, the newest first; of one animal, or of all (None)."""
    query = f"SELECT {_ROW} {_SPAN} AND (?3 IS NULL OR animal = ?3) ORDER BY key DESC LIMIT ?4"
    query = query.replace("key >= ? AND key < ?", "key >= ?1 AND key < ?2")
    return db.execute(query, (*_keys(*span_ms), animal, limit)).fetchall()


def newest_of_hour(db: sqlite3.Connection, hour: int) -> Iterable[tuple[str, Row]]:
    """Of the animals whose last hour this is: name and newest row here."""
    query = f"""WITH last AS (
            SELECT max(key) AS key FROM hot_readings WHERE key >= ? AND key < ?
                AND animal IN (SELECT id FROM animals WHERE last_hour = ?) GROUP BY animal)
        SELECT a.cow_id, {_ROW.replace("animal,", "h.animal,")} FROM last
            CROSS JOIN hot_readings h ON h.key = last.key CROSS JOIN animals a ON a.id = h.animal"""
    span = _keys(hour * HOUR_MS, (hour + 1) * HOUR_MS)
    return ((cow_id, tuple(row)) for cow_id, *row in db.execute(query, (*span, hour)))


def first_ms(db: sqlite3.Connection, from_ms: int) -> int | None:
    """The first instant at or after one; None if there is none."""
    query = "SELECT min(key) FROM hot_readings WHERE key >= ?"
    (key,) = db.execute(query, _keys(from_ms, _TS_MS_END)[:1]).fetchone()
    return None if key is None else int(key) >> ANIMAL_BITS


def delete_hour(db: sqlite3.Connection, hour: int, animals: Collection[int]) -> int:
    """Take the rows of some animals' hour out; returns how many those were."""
    span = _keys(hour * HOUR_MS, (hour + 1) * HOUR_MS)
    some = f"key & {_ANIMAL_MASK} IN (SELECT value FROM json_each(?))"
    return db.execute(f"DELETE {_SPAN} AND {some}", (*span, json.dumps(list(animals)))).rowcount


def table(
    db: sqlite3.Connection,
    columns: Sequence[str],
    from_ms: int,
    to_ms: int,
    animals: Collection[int] | None = None,
) -> Int64:
    """Rows with from_ms ≤ instant < to_ms as whole numbers, by instant and animal.

    Args:
        db: any connection.
        columns: names of values; a `state` that is a word of its own shows as -1.
        from_ms: UTC epoch ms, the first that counts.
        to_ms: the first that does not.
        animals: their numbers; None = all.

    Returns:
        Array [rows, 2 + columns]: instant, animal, then the columns; `MISSING` where nothing was sent.
    """
    names = ", ".join(["key", *map(_expression, columns)])
    query = f"SELECT {names} {_SPAN}"
    arguments: tuple[object, ...] = _keys(from_ms, to_ms)
    if animals is not None and len(animals) == 1:
        query, arguments = f"{query} AND key & {_ANIMAL_MASK} = ?", (*arguments, *animals)
    elif animals is not None:
        query = f"{query} AND key & {_ANIMAL_MASK} IN (SELECT value FROM json_each(?))"
        arguments = (*arguments, json.dumps(list(animals)))
    cursor = db.execute(f"{query} ORDER BY key", arguments)
    width = 1 + len(columns)
    blocks = []
    while block := cursor.fetchmany(BLOCK_ROWS):
        flat = np.fromiter(chain.from_iterable(block), np.int64, len(block) * width)
        blocks.append(flat.reshape(len(block), width))
    stored = np.concatenate(blocks) if blocks else np.empty((0, width), np.int64)
    keys = stored[:, :1]
    return np.concatenate([keys >> ANIMAL_BITS, keys & _ANIMAL_MASK, stored[:, 1:]], axis=1)


def _keys(from_ms: int, to_ms: int) -> tuple[int, int]:
    """First key of a span, and the first behind it."""
    first, end = (min(max(ms, 0), _TS_MS_END - 1) for ms in (from_ms, to_ms))
    return first << ANIMAL_BITS, end << ANIMAL_BITS


def _expression(name: str) -> str:
    if name == "state":
        return f"CASE typeof(state) WHEN 'text' THEN -1 ELSE ifnull(state, {MISSING}) END"
    return f"ifnull({name}, {MISSING})" if name in _NULLABLE else name
