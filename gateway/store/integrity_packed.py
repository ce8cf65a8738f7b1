"""What `verify-store` looks at in packed hours and hourly figures. Main thread of a command; reads only.

Packed hours are read in short snapshots, because a gateway may be packing meanwhile: within one
snapshot every reading is in exactly one place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

from gateway.core.instants import HOUR_MS, HOURS_PER_DAY, iso_utc
from gateway.core.integrity import RESTORE, Fault, Progress
from gateway.errors import StoreError
from gateway.store import chunks, hot, journal, rollups, slice_key
from gateway.store.journal import SliceKey
from gateway.store.transactions import snapshot

CHUNKS_PER_SNAPSHOT = 1000
"""Five hours of 200 animals, about 0.2 s: as long as the log of a running gateway cannot be reset."""
FAULTS_MAX = 100
"""Faults named; a card that has lost a megabyte would fill the screen."""

_FIGURES = "the readings are whole; hourly figures and charts of this hour are not to be trusted"


class _Chunk(msgspec.Struct, frozen=True):
    """A row of `chunks`."""

    hour: int
    animal: int
    rows_n: int
    data: bytes


def packed_faults(db: sqlite3.Connection, path: Path, progress: Progress) -> list[Fault]:
    """Checksum, decoding, number and instants of every packed hour; figures and animals that belong to it."""
    (total,) = db.execute("SELECT count(*) FROM chunks").fetchone()
    names = dict(db.execute("SELECT id, cow_id FROM animals"))
    found: list[Fault] = []
    after, done = -1, 0
    while len(found) < FAULTS_MAX:
        progress("packed hours", done, total)
        with snapshot(db):
            batch = _batch(db, after)
            if not batch:
                break
            for hour, group in groupby(batch, key=lambda one: one.hour):
                found += _hour_faults(db, path, hour, list(group), names)
        after = slice_key.of(batch[-1].hour, batch[-1].animal)
        done += len(batch)
    return found[:FAULTS_MAX]


def _batch(db: sqlite3.Connection, after: int) -> list[_Chunk]:
    rows = db.execute(
        "SELECT slice, rows_n, data FROM chunks WHERE slice > ? ORDER BY slice LIMIT ?",
        (after, CHUNKS_PER_SNAPSHOT),
    )
    found = []
    for slice_, rows_n, data in rows:
        hour, animal = slice_key.apart(slice_)
        found.append(_Chunk(hour, animal, rows_n, data))
    return found


def _hour_faults(
    db: sqlite3.Connection, path: Path, hour: int, packed: list[_Chunk], names: dict[int, str]
) -> Iterator[Fault]:
    """Faults of some packed slices of one hour of data."""
    span = hour * HOUR_MS, (hour + 1) * HOUR_MS
    unpacked: dict[int, set[int]] = {}
    for ts_ms, animal in hot.table(db, (), *span).tolist():
        unpacked.setdefault(animal, set()).add(ts_ms)
    figures = _readings_by_figures(db, hour)
    where = journal.cursors(db)
    for one in packed:
        name = names.get(one.animal)
        place = f"{path}, table chunks, {iso_utc(span[0])} of {name or f'animal number {one.animal}'}"
        if name is None:
            yield Fault(place, "the animal is not in table animals", RESTORE)
        what, instants = _decoded(one)
        if what:
            yield Fault(place, what, RESTORE)
            continue
        late = unpacked.get(one.animal, set())
        twice = late & instants
        if twice and not _noted(db, (hour, one.animal), where.packed_hour):
            yield Fault(place, f"{len(twice)} readings stand in table hot_readings as well", RESTORE)
        counted = figures.get(one.animal, 0)
        held = len(late | instants)
        if counted != held and not _noted(db, (hour, one.animal), where.rolled_hour):
            what = f"{held} readings, but table rollups has counted {counted}"
            yield Fault(place, what, _FIGURES)


def _decoded(one: _Chunk) -> tuple[str, set[int]]:
    """What is wrong with a chunk, or its instants."""
    try:
        cells = chunks.decode(one.data)
    except StoreError as error:
        return error.message, set()
    instants = cells.column[chunks.TS_MS]
    if len(instants) != one.rows_n:
        return f"holds {len(instants)} readings, {one.rows_n} were packed", set()
    if np.any(np.diff(instants) <= 0) or np.any(instants // HOUR_MS != one.hour):
        return "its instants are not those of the hour, in order", set()
    return "", set(instants.tolist())


def _readings_by_figures(db: sqlite3.Connection, hour: int) -> dict[int, int]:
    """Readings of an hour by animal, as the hourly figures count them; a damaged row counts none."""
    day, of_day = divmod(hour, HOURS_PER_DAY)
    counted: dict[int, int] = {}
    rows = db.execute(
        "SELECT day_animal, data FROM rollups WHERE day_animal >= ? AND day_animal < ?",
        (slice_key.of(day, 0), slice_key.of(day + 1, 0)),
    )
    for day_animal, data in rows:
        column = rollups.decode(data, (0, 1))
        if column is None:
            continue
        counted[slice_key.apart(day_animal)[1]] = int(column[1][column[0] == of_day].sum())
    return counted


def _noted(db: sqlite3.Connection, slice_: SliceKey, arrival_hour: int) -> bool:
    """Whether the journal still has a later change of a slice to be walked."""
    query = "SELECT 1 FROM arrived WHERE arrival_hour > ? AND hour = ? AND animal = ? LIMIT 1"
    return db.execute(query, (arrival_hour, *slice_)).fetchone() is not None
