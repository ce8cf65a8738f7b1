"""The one way to read readings back: over `hot_readings`, packed hours and roll-ups, whole or down-sampled.

Functions over a read-only connection. Long spans go piece by piece, so that a question takes the
memory of its answer and of one hour of the herd.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.buckets import Buckets, bucketed
from gateway.core.instants import HOUR_MS, MS_PER_MINUTE
from gateway.core.outbox import Slice
from gateway.core.readings import Reading
from gateway.store import rollups, spans
from gateway.store.rows import decode
from gateway.store.transactions import snapshot

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

CHANNELS = rollups.CHANNELS
"""What a series may show."""
STEPS_MS = (
    *(minutes * MS_PER_MINUTE for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * HOUR_MS for hours in (1, 2, 3, 4, 6, 8, 12, 24, 48, 7 * 24, 14 * 24, 28 * 24)),
)
"""Widths of buckets: below an hour they divide it, above they are made of hours."""
_PIECE_ROWS = 12_000
"""About how many readings are in hand at once: an hour of 200 animals, 12,000 × 80 bytes = 1 MB."""


class SeriesTable(msgspec.Struct, frozen=True, eq=False):
    """Readings, or buckets of them, by animal and then time.

    Args:
        cow_ids: the animals that have any.
        cow: index into `cow_ids`, one a row.
        timestamp_ms: UTC epoch ms; of a bucket its start.
        n: readings behind a row (1 without buckets).
        values: by channel, NaN = not sent; of a bucket the mean.
        low, high, last: of a bucket; without buckets the same arrays as `values`.
        step_ms: width of the buckets, None without.
    """

    cow_ids: list[str]
    cow: Int32
    timestamp_ms: Int64
    n: Int32
    values: dict[str, Floats]
    low: dict[str, Floats]
    high: dict[str, Floats]
    last: dict[str, Floats]
    step_ms: int | None = None

    def rows_by_cow(self) -> Iterator[tuple[str, slice]]:
        """Each animal and where its rows are."""
        ends = np.searchsorted(self.cow, np.arange(len(self.cow_ids) + 1)).tolist()
        for at, cow_id in enumerate(self.cow_ids):
            yield cow_id, slice(ends[at], ends[at + 1])


def series(
    db: sqlite3.Connection,
    cow_ids: Sequence[str] | None,
    from_ms: int,
    to_ms: int,
    channels: Sequence[str],
    *,
    step_ms: int | None = None,
) -> SeriesTable:
    """Readings with from_ms ≤ instant < to_ms.

    Args:
        db: any connection.
        from_ms: UTC epoch ms, the first that counts.
        to_ms: the first that does not.
        cow_ids: None = all; unknown ones are left out.
        channels: names in `CHANNELS`.
        step_ms: None = every reading; else buckets of this width (one of `STEPS_MS`), starting at
            its multiples since 1970: `from_ms` is rounded down and `to_ms` up to them.

    Raises:
        ChunkError: a packed hour is damaged.
        ValueError: a channel or a width that does not exist.
    """
    for channel in channels:
        if channel not in CHANNELS:
            raise ValueError(f"there is no channel {channel!r}, only {', '.join(CHANNELS)}")
    if step_ms is not None and step_ms not in STEPS_MS:
        raise ValueError(f"{step_ms} ms is none of the widths of buckets: {STEPS_MS}")
    names, first_ms, end_ms = _animals(db, cow_ids)
    from_ms, to_ms = max(from_ms, first_ms), min(to_ms, end_ms)
    step = step_ms or 1
    from_ms, to_ms = from_ms // step * step, -(-to_ms // step) * step
    animals = None if cow_ids is None else names.keys()
    parts = _Parts(channels, ("values",) if step_ms is None else ("values", "low", "high", "last"))
    if step_ms is not None and step_ms >= HOUR_MS:
        hours = range(from_ms // HOUR_MS, to_ms // HOUR_MS)
        parts.add_buckets(rollups.buckets(db, animals, hours, channels, step_ms=step_ms))
        return _table(names, parts, step_ms)
    piece_ms = HOUR_MS * max(1, _PIECE_ROWS // (60 * max(1, len(names))))
    for piece in spans.pieces(db, range(from_ms, to_ms, piece_ms), animals, channels):
        if step_ms is None:
            parts.add_readings(piece)
        else:
            parts.add_buckets(bucketed(piece.cow, piece.timestamp_ms, piece.values, step_ms))
    return _table(names, parts, step_ms)


def points(
    db: sqlite3.Connection,
    cow_ids: Sequence[str] | None,
    from_ms: int,
    to_ms: int,
    channels: Sequence[str],
    *,
    points_max: int,
) -> SeriesTable:
    """The same in at most `points_max` buckets an animal.

    The narrowest width that does is taken, from a minute to 28 days.

    Raises:
        ChunkError, ValueError: as `series`.
    """
    fits = (step for step in STEPS_MS if -(-to_ms // step) - from_ms // step <= points_max)
    return series(db, cow_ids, from_ms, to_ms, channels, step_ms=next(fits, STEPS_MS[-1]))


def raw(
    db: sqlite3.Connection, from_ms: int, to_ms: int, cow_ids: Sequence[str] | None = None
) -> Iterator[list[Reading]]:
    """Every reading as it was stored: an hour of the herd at a time, by animal and instant within it.

    Each hour is read in a snapshot of its own, where the caller holds none.

    Raises:
        ChunkError: a packed hour is damaged.
    """
    names, first_ms, end_ms = _animals(db, cow_ids)
    from_ms, to_ms = max(from_ms, first_ms), min(to_ms, end_ms)
    for hour in spans.hours_with_data(db, from_ms // HOUR_MS, -(-to_ms // HOUR_MS)):
        with snapshot(db):  # or an hour that is packed meanwhile would be in neither of its homes
            stored = spans.rows_of_hour(db, hour, names.keys())
        rows = [row for row in stored if from_ms <= row[0] < to_ms]
        if rows:
            yield [decode(row, names[row[1]]) for row in rows]


def slice_readings(db: sqlite3.Connection, part: Slice) -> list[Reading]:
    """All readings of a slice in the order of their instants, never fewer than when it was claimed.

    Raises:
        ChunkError: the slice is packed and damaged.
    """
    found = list(raw(db, part.hour * HOUR_MS, (part.hour + 1) * HOUR_MS, [part.cow_id]))
    return found[0] if found else []


def _animals(db: sqlite3.Connection, cow_ids: Sequence[str] | None) -> tuple[dict[int, str], int, int]:
    """Number → name of the animals asked for, and the span that holds all their readings."""
    query = "SELECT id, cow_id, first_hour, last_hour FROM animals"
    arguments: tuple[str, ...] = ()
    if cow_ids is not None:
        query += " WHERE cow_id IN (SELECT value FROM json_each(?))"
        arguments = (json.dumps(list(cow_ids)),)
    rows = db.execute(query, arguments).fetchall()
    first = min((row[2] for row in rows), default=0)
    last = max((row[3] for row in rows), default=-1)
    return {row[0]: row[1] for row in rows}, first * HOUR_MS, (last + 1) * HOUR_MS


class _Parts:
    """Pieces of the answer in order of time, column by column, so that each is freed once it is joined."""

    def __init__(self, channels: Sequence[str], fields: Sequence[str]) -> None:
        self.cow: list[Int32] = []
        self.timestamp_ms: list[Int64] = []
        self.n: list[Int64] = []
        self.figures: dict[str, dict[str, list[Floats]]] = {
            field: {channel: [] for channel in channels} for field in fields
        }

    def add_readings(self, found: spans.Channels) -> None:
        self.cow.append(found.cow)
        self.timestamp_ms.append(found.timestamp_ms)
        for channel, pieces in self.figures["values"].items():
            pieces.append(found.values[channel].astype(np.float32))

    def add_buckets(self, found: Buckets) -> None:
        self.cow.append(found.cow)
        self.timestamp_ms.append(found.start_ms)
        self.n.append(found.n)
        for field, channels in self.figures.items():
            for channel, pieces in channels.items():
                figure = "mean" if field == "values" else field
                pieces.append(getattr(found.channels[channel], figure).astype(np.float32))


def _table(names: dict[int, str], parts: _Parts, step_ms: int | None) -> SeriesTable:
    """The pieces as one table by animal and time; they are used up."""
    numbers = _joined(parts.cow, np.int32)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    figures = {
        field: {channel: _joined(pieces, np.float32)[order] for channel, pieces in channels.items()}
        for field, channels in parts.figures.items()
    }
    means = figures["values"]
    one_each = np.broadcast_to(np.int32(1), len(numbers))
    return SeriesTable(
        cow_ids=[names[int(number)] for number in numbers[first]],
        cow=np.repeat(np.arange(len(first), dtype=np.int32), np.diff(first, append=len(numbers))),
        timestamp_ms=_joined(parts.timestamp_ms, np.int64)[order],
        n=one_each if step_ms is None else _joined(parts.n, np.int32)[order],
        values=means,
        low=figures.get("low", means),
        high=figures.get("high", means),
        last=figures.get("last", means),
        step_ms=step_ms,
    )


def _joined(pieces: list[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """All pieces in one, which are let go."""
    whole = np.concatenate([np.empty(0, dtype), *pieces]).astype(dtype, copy=False)
    pieces.clear()
    return whole
