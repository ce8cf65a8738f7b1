"""Readings of a span over both of their homes, `hot_readings` and the packed hours, as rows or as arrays.

Functions over a connection; they read only. What stands in both (version 1's code, used again after a
rollback, knows nothing of packed hours and stores a late reading once more) is taken from the chunk.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.buckets import Buckets, bucketed, last_in_minute, motion_of
from gateway.core.instants import HOUR_MS, MS_PER_MINUTE
from gateway.store import chunks, hot, slice_key
from gateway.store.columns import MISSING
from gateway.store.rows import STATE_CODES, Row

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

COLUMNS = {
    "temperature_c": ("temperature_centi", chunks.TEMPERATURE, 100),
    "fxa_g": ("fxa_milli", chunks.FXA, 1000),
    "mya_g": ("mya_milli", chunks.MYA, 1000),
    "rza_g": ("rza_milli", chunks.RZA, 1000),
    "sxg_dps": ("sxg_centi", chunks.SXG, 100),
    "lyg_dps": ("lyg_centi", chunks.LYG, 100),
    "dzg_dps": ("dzg_centi", chunks.DZG, 100),
    "motion_intensity": ("motion_milli", chunks.MOTION, 1000),
    "state": ("state", chunks.STATE, 1),
}
"""What a reading holds: name → column of `hot_readings`, place in a chunk, steps a unit."""
MOTION_G = "motion_g"
"""Reckoned from the axes: motion without gravity (decision 1)."""
STATE_MINUTES = (*STATE_CODES, "other")
"""Reckoned from `state`: minutes whose last reading says so; the numbers 1 to 6, and other words."""
_AXES = ("fxa_g", "mya_g", "rza_g")
REPORTED = "motion_intensity"
"""The collar's own figure of motion."""
_FEW = 8
"""Below an eighth of the herd, looking chunks up one by one is cheaper than passing over all."""
_CHUNKS = "SELECT slice, data FROM chunks WHERE slice"


def packed(
    db: sqlite3.Connection, from_hour: int, to_hour: int, animals: Collection[int]
) -> Iterator[tuple[int, int, bytes]]:
    """(hour, animal, chunk) of from_hour ≤ hour < to_hour, by hour and animal."""
    to_hour = min(to_hour, chunks.newest_hour(db) + 1)
    if from_hour >= to_hour:
        return
    (herd_n,) = db.execute("SELECT count(*) FROM animals").fetchone()
    if len(animals) * _FEW < herd_n:
        keys = [slice_key.of(hour, a) for hour in range(from_hour, to_hour) for a in sorted(animals)]
        rows = db.execute(
            f"{_CHUNKS} IN (SELECT value FROM json_each(?)) ORDER BY slice", (json.dumps(keys),)
        )
    else:
        span = slice_key.of(from_hour, 0), slice_key.of(to_hour, 0)
        rows = db.execute(f"{_CHUNKS} >= ? AND slice < ? ORDER BY slice", span)
    for slice_, data in rows:
        hour, animal = slice_key.apart(slice_)
        if animal in animals:
            yield hour, animal, data


def rows_of_hour(db: sqlite3.Connection, hour: int, animals: Collection[int]) -> list[Row]:
    """Rows of an hour, by animal and instant.

    Raises:
        ChunkError: a chunk is damaged; names hour and animal.
    """
    found: dict[tuple[int, int], Row] = {}
    for _, animal, data in packed(db, hour, hour + 1, animals):
        with chunks.named(hour, animal):
            for row in chunks.rows_of(data, animal):
                found[animal, row[0]] = row
    for row in hot.rows(db, hour * HOUR_MS, (hour + 1) * HOUR_MS):
        if row[1] in animals:
            found.setdefault((row[1], row[0]), row)
    return [found[place] for place in sorted(found)]


def hours_with_data(db: sqlite3.Connection, from_hour: int, to_hour: int) -> Iterator[int]:
    """Hours in a span that have readings, ascending; empty years are jumped over."""
    hour = from_hour
    while hour < to_hour:
        instant = hot.first_ms(db, hour * HOUR_MS)
        first = (slice_key.of(hour, 0),)
        (slice_,) = db.execute("SELECT min(slice) FROM chunks WHERE slice >= ?", first).fetchone()
        candidates = []
        if instant is not None:
            candidates.append(instant // HOUR_MS)
        if slice_ is not None:
            candidates.append(slice_key.apart(slice_)[0])
        hour = min(candidates, default=to_hour)
        if hour < to_hour:
            yield hour
        hour += 1


def cells(
    db: sqlite3.Connection, from_ms: int, to_ms: int, animals: Collection[int] | None, columns: Sequence[str]
) -> Int64:
    """Readings with from_ms ≤ instant < to_ms as scaled whole numbers, by animal and instant.

    Args:
        db: any connection.
        from_ms: UTC epoch ms, the first that counts.
        to_ms: the first that does not.
        animals: their numbers; None = all.
        columns: names in `COLUMNS`.

    Returns:
        Array [rows, 2 + columns]: instant, animal, then the columns; `MISSING` = not sent.

    Raises:
        ChunkError: a chunk is damaged; names hour and animal.
    """
    names = [COLUMNS[column][0] for column in columns]
    places = [COLUMNS[column][1] for column in columns]
    everyone = animals if animals is not None else Everyone()
    parts = []
    for hour, animal, data in packed(db, from_ms // HOUR_MS, -(-to_ms // HOUR_MS), everyone):
        with chunks.named(hour, animal):
            column = chunks.decode(data, [chunks.TS_MS, *places]).column
        rows = np.empty((len(column[chunks.TS_MS]), 2 + len(names)), np.int64)
        rows[:, 0], rows[:, 1] = column[chunks.TS_MS], animal
        for at, place in enumerate(places, 2):
            rows[:, at] = column[place]
        parts.append(rows)
    both = bool(parts)
    parts.append(hot.table(db, names, from_ms, to_ms, animals))
    table = np.concatenate(parts) if both else parts[0]
    if both:
        table = table[(table[:, 0] >= from_ms) & (table[:, 0] < to_ms)]
    # Stable: of an instant that stands in both, the chunk's row comes first and stays.
    table = table[np.lexsort((table[:, 0], table[:, 1]))]
    if both and len(table):
        fresh = np.ones(len(table), np.bool_)
        fresh[1:] = (np.diff(table[:, 0]) != 0) | (np.diff(table[:, 1]) != 0)
        table = table[fresh]
    return table


class Channels(msgspec.Struct, frozen=True, eq=False):
    """Readings as channels, by animal and instant, one entry each.

    Args:
        cow: the animal's number.
        timestamp_ms: UTC epoch ms.
        values: by channel, NaN = not sent.
    """

    cow: Int32
    timestamp_ms: Int64
    values: dict[str, Float64]


def channels(
    db: sqlite3.Connection, from_ms: int, to_ms: int, animals: Collection[int] | None, names: Sequence[str]
) -> Channels:
    """Readings with from_ms ≤ instant < to_ms.

    Args:
        db: any connection.
        from_ms: UTC epoch ms, the first that counts.
        to_ms: the first that does not.
        animals: their numbers; None = all.
        names: names in `COLUMNS` but `state`, `motion_g`, and `STATE_MINUTES` (1 at the last reading
            of a minute that shows the state).

    Raises:
        ChunkError: as `cells`.
    """
    return next(pieces(db, range(from_ms, to_ms, max(1, to_ms - from_ms)), animals, names), _NOTHING)


def pieces(
    db: sqlite3.Connection, span_ms: range, animals: Collection[int] | None, names: Sequence[str]
) -> Iterator[Channels]:
    """The same piece by piece; the range's step is the length of a piece.

    Raises:
        ChunkError: as `cells`.
    """
    moving = MOTION_G in names
    needed = dict.fromkeys(name for name in names if name in COLUMNS)
    needed |= dict.fromkeys((*_AXES, REPORTED) if moving else ())
    if any(name in STATE_MINUTES for name in names):
        needed["state"] = None
    # The minute before a piece, from which the motion of its first minute is measured.
    lead = range(span_ms.start - MS_PER_MINUTE, span_ms.start) if moving else range(0)
    before = cells(db, lead.start, lead.stop, animals, list(needed))
    for from_ms in span_ms:
        to_ms = min(from_ms + span_ms.step, span_ms.stop)
        table = cells(db, from_ms, to_ms, animals, list(needed))
        yield _channels(before, table, names, list(needed))
        if moving:
            before = table[table[:, 0] >= to_ms - MS_PER_MINUTE]


def _channels(before: Int64, table: Int64, names: Sequence[str], needed: Sequence[str]) -> Channels:
    """Channels of a piece; `before` is what its motion is measured from."""
    from_ms = int(before[:, 0].max(initial=-1)) + 1
    if len(before):
        table = np.concatenate([before, table])
        table = table[np.lexsort((table[:, 0], table[:, 1]))]
    cow, instant = table[:, 1].astype(np.int32), table[:, 0]
    held = {name: in_units(table[:, at], name) for at, name in enumerate(needed, 2)}
    if MOTION_G in names:
        held[MOTION_G] = motion_of(cow, instant, [held[axis] for axis in _AXES], held[REPORTED])
    if "state" in needed:
        told = np.where(last_in_minute(cow, instant), held["state"], np.nan)
        for number, word in enumerate(STATE_MINUTES[:-1], 1):
            held[word] = np.where(told == number, 1.0, np.nan)
        known = np.isin(told, np.arange(1, len(STATE_MINUTES)))
        held[STATE_MINUTES[-1]] = np.where(np.isnan(told) | known, np.nan, 1.0)
    inside = instant >= from_ms
    return Channels(cow[inside], instant[inside], {name: held[name][inside] for name in names})


def figures(
    db: sqlite3.Connection,
    from_ms: int,
    to_ms: int,
    animals: Collection[int] | None,
    names: Sequence[str],
    *,
    step_ms: int,
) -> Buckets:
    """Figures of the same channels per animal and bucket; the span begins and ends with one.

    Raises:
        ChunkError: as `cells`.
    """
    found = channels(db, from_ms, to_ms, animals, names)
    return bucketed(found.cow, found.timestamp_ms, found.values, step_ms)


_NOTHING = Channels(np.empty(0, np.int32), np.empty(0, np.int64), {})


class Everyone(Collection[int]):
    """Every animal there may be."""

    def __contains__(self, animal: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1 << slice_key.ANIMAL_BITS


def in_units(column: Int64, name: str) -> Float64:
    """Scaled whole numbers of a column in its unit; NaN = not sent."""
    return np.where(column == MISSING, np.nan, column / COLUMNS[name][2])
