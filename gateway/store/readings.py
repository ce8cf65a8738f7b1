"""Readings in the hot table: functions over a connection. `append` and `slice_delivered` write.

Values are scaled integers (temperature and gyro 1/100, acceleration and motion intensity 1/1000), so
a reading costs about 46 bytes; what is read back is the sent value at that resolution. The key is
(instant, animal): a commit touches the newest page, not one page per animal (DESIGN, "Store layout").
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.outbox import Slice
from gateway.core.readings import Reading

HOUR_MS = 3_600_000
SCALED_MAX = 2**53
"""Beyond this a float no longer holds every integer; no sensor means such a value."""
STATE_CODES = {"lying": 1, "standing": 2, "walking": 3, "feeding": 4, "ruminating": 5, "drinking": 6}
"""The rows of table `states`; any other word is stored as it is."""
BLOCK_ROWS = 8192
"""Rows turned into arrays at a time: 8192 × 7 Python numbers are about 2 MB, whatever is asked for."""

Row = tuple[Any, ...]
Floats = npt.NDArray[np.float64]

_INSERT = "INSERT OR IGNORE INTO hot VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
_VALUES = (
    "temperature_centi, fxa_milli, mya_milli, rza_milli, sxg_centi, lyg_centi, dzg_centi, state, motion_milli"
)
_READING = """a.cow_id, h.ts_ms, h.temperature_centi, h.fxa_milli, h.mya_milli, h.rza_milli,
    h.sxg_centi, h.lyg_centi, h.dzg_centi,
    CASE typeof(h.state) WHEN 'integer' THEN (SELECT s.word FROM states s WHERE s.id = h.state)
        ELSE h.state END,
    h.motion_milli, h.received_ms, h.flags"""
# CROSS JOIN keeps `hot` outermost: its key gives the order by time for nothing.
_SELECT = f"SELECT {_READING} FROM hot h CROSS JOIN animals a ON a.id = h.animal"


class Outcome(IntEnum):
    """What became of one reading (decision 8)."""

    STORED = 0
    DUPLICATE = 1
    CONFLICT = 2


class Series(msgspec.Struct, frozen=True, eq=False):
    """One animal's readings in the order of their instants; all arrays have the same length.

    `motion_g` is the collar's own motion intensity. NaN = not sent.
    """

    timestamp_ms: npt.NDArray[np.int64]
    temperature_c: Floats
    fxa_g: Floats
    mya_g: Floats
    rza_g: Floats
    motion_g: Floats


def append(db: sqlite3.Connection, readings: Sequence[Reading]) -> list[Outcome]:
    """Store a batch; the first reading of an (animal, instant) wins, also within the batch.

    A second one with the same values (at the stored resolution; arrival does not count) is a
    DUPLICATE, with others a CONFLICT. What was stored makes its (hour, animal) slice dirty in the
    same transaction.
    """
    if not readings:
        return []
    animals = _animals(db, readings)
    outcomes = []
    touched: set[tuple[int, int]] = set()
    cursor = db.cursor()
    for reading in readings:
        animal = animals[reading.cow_id]
        row = _encode(reading, animal)
        if cursor.execute(_INSERT, row).rowcount == 1:
            outcomes.append(Outcome.STORED)
            touched.add((reading.timestamp_ms // HOUR_MS, animal))
        else:
            outcomes.append(_compare(cursor, row))
    if touched:
        _mark_dirty(db, touched)
        _widen_hours(db, touched)
    return outcomes


def animal_count(db: sqlite3.Connection) -> int:
    """How many animals have ever sent a reading (the bound is ingest's, decision 9)."""
    (count,) = db.execute("SELECT count(*) FROM animals").fetchone()
    return int(count)


def knows(db: sqlite3.Connection, cow_ids: Iterable[str]) -> set[str]:
    """Those of `cow_ids` that have sent a reading before."""
    rows = db.execute(
        "SELECT cow_id FROM animals WHERE cow_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(cow_ids)),),
    )
    return {cow_id for (cow_id,) in rows}


def history(db: sqlite3.Connection, cow_id: str, from_ms: int, to_ms: int) -> Series:
    """One animal's readings with from_ms ≤ instant < to_ms; empty for an unknown animal."""
    animal = _animal(db, cow_id)
    if animal is None:
        return _series(_NO_ROWS)
    animal_id, first_ms, end_ms = animal
    rows = db.execute(
        "SELECT animal, ts_ms, temperature_centi, fxa_milli, mya_milli, rza_milli, motion_milli"
        " FROM hot WHERE ts_ms >= ? AND ts_ms < ? AND animal = ? ORDER BY ts_ms",
        (max(from_ms, first_ms), min(to_ms, end_ms), animal_id),
    )
    return _series(_table(rows))


def herd_history(db: sqlite3.Connection, from_ms: int, to_ms: int) -> dict[str, Series]:
    """The same for every animal that has readings in the span, in one pass (start-up of windows)."""
    rows = db.execute(
        "SELECT animal, ts_ms, temperature_centi, fxa_milli, mya_milli, rza_milli, motion_milli"
        " FROM hot WHERE ts_ms >= ? AND ts_ms < ? ORDER BY ts_ms, animal",
        (from_ms, to_ms),
    )
    table = _table(rows)
    table = table[np.argsort(table[:, 0], kind="stable")]  # by animal, each still in time order
    ids, starts = np.unique(table[:, 0], return_index=True)
    names = dict(db.execute("SELECT id, cow_id FROM animals"))
    parts = np.split(table, starts[1:])
    return {str(names[int(i)]): _series(part) for i, part in zip(ids, parts, strict=False)}


def latest(db: sqlite3.Connection, limit: int) -> list[Reading]:
    """The newest reading of each animal, newest first, at most `limit` animals."""
    newest: list[Reading] = []
    hours = db.execute("SELECT DISTINCT last_hour FROM animals ORDER BY last_hour DESC").fetchall()
    for (hour,) in hours:
        if len(newest) >= limit:
            break
        rows = db.execute(
            f"""WITH last AS (
                SELECT max(ts_ms) AS ts_ms, animal FROM hot
                WHERE ts_ms >= :from_ms AND ts_ms < :to_ms
                    AND animal IN (SELECT id FROM animals WHERE last_hour = :hour)
                GROUP BY animal ORDER BY 1 DESC, animal LIMIT :limit)
            SELECT {_READING} FROM last
                CROSS JOIN hot h ON h.ts_ms = last.ts_ms AND h.animal = last.animal
                CROSS JOIN animals a ON a.id = h.animal
            ORDER BY h.ts_ms DESC, h.animal""",
            {
                "from_ms": hour * HOUR_MS,
                "to_ms": (hour + 1) * HOUR_MS,
                "hour": hour,
                "limit": limit - len(newest),
            },
        )
        newest.extend(_decode(row) for row in rows)
    return newest


def recent(db: sqlite3.Connection, cow_id: str | None, limit: int) -> list[Reading]:
    """The newest readings by instant, newest first; of one animal, or of all (None)."""
    if cow_id is None:
        rows = db.execute(f"{_SELECT} ORDER BY h.ts_ms DESC, h.animal DESC LIMIT ?", (limit,))
        return [_decode(row) for row in rows]
    animal = _animal(db, cow_id)
    if animal is None:
        return []
    animal_id, first_ms, end_ms = animal
    rows = db.execute(
        f"{_SELECT} WHERE h.ts_ms >= ? AND h.ts_ms < ? AND h.animal = ? ORDER BY h.ts_ms DESC LIMIT ?",
        (first_ms, end_ms, animal_id, limit),
    )
    return [_decode(row) for row in rows]


def dirty_slices(db: sqlite3.Connection, limit: int) -> list[Slice]:
    """What bulk destinations have not got yet, oldest hour first."""
    rows = db.execute(
        "SELECT d.hour, a.cow_id, d.rev FROM dirty d CROSS JOIN animals a ON a.id = d.animal"
        " WHERE d.hour > 0 ORDER BY d.hour, d.animal LIMIT ?",
        (limit,),
    )
    return [Slice(hour=hour, cow_id=cow_id, rev=rev) for hour, cow_id, rev in rows]


def slice_readings(db: sqlite3.Connection, part: Slice) -> list[Reading]:
    """All readings of a slice in the order of their instants; never fewer than its rev stands for."""
    rows = db.execute(
        f"{_SELECT} WHERE h.ts_ms >= ? AND h.ts_ms < ? AND h.animal ="
        " (SELECT id FROM animals WHERE cow_id = ?) ORDER BY h.ts_ms",
        (part.hour * HOUR_MS, (part.hour + 1) * HOUR_MS, part.cow_id),
    )
    return [_decode(row) for row in rows]


def slice_delivered(db: sqlite3.Connection, part: Slice) -> None:
    """Clear a slice, unless it has changed since it was listed. Revs are never used twice."""
    db.execute(
        "DELETE FROM dirty WHERE hour = ? AND rev = ? AND animal = (SELECT id FROM animals WHERE cow_id = ?)",
        (part.hour, part.rev, part.cow_id),
    )


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
    return found


def _encode(reading: Reading, animal: int) -> Row:
    state = reading.state
    return (
        reading.timestamp_ms,
        animal,
        round(reading.temperature_c * 100),
        round(reading.fxa_g * 1000),
        round(reading.mya_g * 1000),
        round(reading.rza_g * 1000),
        _scaled(reading.sxg_dps, 100),
        _scaled(reading.lyg_dps, 100),
        _scaled(reading.dzg_dps, 100),
        None if state is None else STATE_CODES.get(state, state),
        _scaled(reading.motion_intensity, 1000),
        reading.received_ms,
        reading.flags,
    )


def _scaled(value: float | None, per_unit: int) -> int | None:
    """An optional value as an integer; one that is too big counts as not sent."""
    # A single absurd number (1e300) must not fail the batch of everybody else.
    if value is None:
        return None
    scaled = value * per_unit
    return round(scaled) if -SCALED_MAX <= scaled <= SCALED_MAX else None


def _decode(row: Row) -> Reading:
    return Reading(
        cow_id=row[0],
        timestamp_ms=row[1],
        temperature_c=row[2] / 100,
        fxa_g=row[3] / 1000,
        mya_g=row[4] / 1000,
        rza_g=row[5] / 1000,
        sxg_dps=None if row[6] is None else row[6] / 100,
        lyg_dps=None if row[7] is None else row[7] / 100,
        dzg_dps=None if row[8] is None else row[8] / 100,
        state=row[9],
        motion_intensity=None if row[10] is None else row[10] / 1000,
        received_ms=row[11],
        flags=row[12],
    )


def _compare(cursor: sqlite3.Cursor, row: Row) -> Outcome:
    """The reading's key is taken: same values or others?"""
    cursor.execute(f"SELECT {_VALUES} FROM hot WHERE ts_ms = ? AND animal = ?", row[:2])
    return Outcome.DUPLICATE if cursor.fetchone() == row[2:11] else Outcome.CONFLICT


def _mark_dirty(db: sqlite3.Connection, touched: set[tuple[int, int]]) -> None:
    """One new rev for everything this batch touched, from the counter in row (0, 0)."""
    (rev,) = db.execute("SELECT rev + 1 FROM dirty WHERE hour = 0 AND animal = 0").fetchone()
    db.executemany(
        "INSERT INTO dirty (hour, animal, rev) VALUES (?, ?, ?)"
        " ON CONFLICT (hour, animal) DO UPDATE SET rev = excluded.rev",
        ((hour, animal, rev) for hour, animal in ((0, 0), *touched)),
    )


def _widen_hours(db: sqlite3.Connection, touched: set[tuple[int, int]]) -> None:
    """Keep each animal's first and last hour; most batches change neither and write nothing."""
    db.executemany(
        "UPDATE animals SET first_hour = min(first_hour, ?1), last_hour = max(last_hour, ?1)"
        " WHERE id = ?2 AND (first_hour > ?1 OR last_hour < ?1)",
        touched,
    )


def _animal(db: sqlite3.Connection, cow_id: str) -> tuple[int, int, int] | None:
    """Id, and the span of instants that holds all its readings."""
    row = db.execute("SELECT id, first_hour, last_hour FROM animals WHERE cow_id = ?", (cow_id,)).fetchone()
    return None if row is None else (row[0], row[1] * HOUR_MS, (row[2] + 1) * HOUR_MS)


_NO_ROWS: Floats = np.empty((0, 7))


def _table(rows: sqlite3.Cursor) -> Floats:
    """Rows as one float array, None as NaN (milliseconds of any year fit a float exactly)."""
    blocks = []
    while block := rows.fetchmany(BLOCK_ROWS):
        blocks.append(np.array(block, dtype=np.float64))
    return np.concatenate(blocks) if blocks else _NO_ROWS


def _series(table: Floats) -> Series:
    return Series(
        timestamp_ms=table[:, 1].astype(np.int64),
        temperature_c=table[:, 2] / 100,
        fxa_g=table[:, 3] / 1000,
        mya_g=table[:, 4] / 1000,
        rza_g=table[:, 5] / 1000,
        motion_g=table[:, 6] / 1000,
    )
