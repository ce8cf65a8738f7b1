"""A packed slice: all readings of one animal's hour in one blob. Pure but for the two row functions.

A chunk is a CRC-32 (4 bytes, little-endian, over the rest) and the columns of a row without the
animal (store/columns.py). What the collar sent is kept exactly; the time of arrival, which is ours, to
the second, as delay behind the instant: its milliseconds are noise that no coding makes smaller, and
would be a tenth of the store. Words of `state` that have no number stand behind the columns as JSON.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.instants import HOUR_MS, iso_utc
from gateway.errors import StoreError
from gateway.store import columns, slice_key
from gateway.store.columns import MISSING
from gateway.store.rows import Row

Int64 = npt.NDArray[np.int64]
FORM = 0x11
"""Says how a chunk is laid out: these columns in this order. Another order, another form."""
# fmt: off
(TS_MS, TEMPERATURE, FXA, MYA, RZA, SXG, LYG, DZG, MOTION, STATE, DELAY, FLAGS) = range(12)
# fmt: on
"""Places of the columns in a chunk; scaled like those of a row."""
_ALL = range(12)
MS_PER_S = 1000
_HOT_COLUMNS = (0, 2, 3, 4, 5, 6, 7, 8, 10, 9, 11, 12)
"""Where a row has them (store/rows.py)."""
DECODED_MAX = 64
"""Decoded chunks that are kept for late readings: 64 × 60 rows × about 0.3 KB = 1.2 MB."""


class ChunkError(StoreError):
    """A chunk whose bytes are not what was written.

    Attributes:
        slice_: (hour, animal), where it is known.
    """

    slice_: tuple[int, int] | None = None


class Cells(msgspec.Struct, frozen=True, eq=False):
    """Columns of a slice in the order of their instants.

    Args:
        column: by place (`TS_MS` …), scaled integers, `MISSING` = not sent.
        words: states without a number; `column[STATE]` holds -1 for the first, -2 …
    """

    column: dict[int, Int64]
    words: tuple[str, ...] = ()


@contextmanager
def named(hour: int, animal: int) -> Iterator[None]:
    """A damaged chunk's error names its hour and animal."""
    try:
        yield
    except ChunkError as error:
        place = f"hour {iso_utc(hour * HOUR_MS)} of animal number {animal}"
        known = ChunkError(f"{error.message} ({place})", error.hint)
        known.slice_ = (hour, animal)
        raise known from error


def encode(rows: Sequence[Row]) -> bytes:
    """Rows (one animal, one hour, in order) as a chunk."""
    words: dict[str, int] = {}
    cells = [[MISSING if value is None else value for value in column] for column in zip(*rows, strict=True)]
    for place, state in enumerate(cells[9]):
        if isinstance(state, str):
            cells[9][place] = -1 - words.setdefault(state, len(words))
    table = [np.array(cells[place], np.int64) for place in _HOT_COLUMNS]
    table[DELAY] = table[DELAY] // MS_PER_S - table[TS_MS] // MS_PER_S
    tail = msgspec.json.encode(list(words)) if words else b""
    body = columns.encode(table) + tail
    return columns.seal(FORM, body)


def decode(data: bytes, wanted: Collection[int] = _ALL) -> Cells:
    """The wanted columns of a chunk.

    Raises:
        ChunkError: the checksum is wrong.
    """
    try:
        body = columns.unseal(FORM, data)
        # The words stand behind the last column.
        column, end = columns.decode(body, {*wanted, FLAGS} if STATE in wanted else wanted)
        tail = body[end:] if STATE in wanted else b""
        words = msgspec.json.decode(tail, type=tuple[str, ...]) if tail else ()
    except (columns.ColumnsError, msgspec.DecodeError) as error:
        raise ChunkError(f"a packed hour {error}", "run barn-gateway verify-store") from error
    return Cells(column, words)


def rows_of(data: bytes, animal: int) -> list[Row]:
    """A chunk as rows, in the order of their instants.

    Raises:
        ChunkError: as `decode`.
    """
    cells = decode(data)
    column = dict(cells.column)
    column[DELAY] = (column[DELAY] + column[TS_MS] // MS_PER_S) * MS_PER_S
    lists = [[None if value == MISSING else value for value in column[place].tolist()] for place in _ALL]
    lists[STATE] = [
        cells.words[-1 - value] if value is not None and value < 0 else value for value in lists[STATE]
    ]
    animals = [animal] * len(lists[TS_MS])
    return list(
        zip(lists[TS_MS], animals, *lists[TEMPERATURE:MOTION], lists[STATE], lists[MOTION], *lists[DELAY:],
            strict=True)
    )  # fmt: skip


@lru_cache(maxsize=DECODED_MAX)
def by_instant(data: bytes) -> dict[int, Row]:
    """The rows of a chunk by `ts_ms`, for the check of late readings.

    Kept by the chunk's own bytes: one that was written anew is never taken for the old one.
    """
    return {row[0]: row for row in rows_of(data, 0)}


def get(db: sqlite3.Connection, hour: int, animal: int) -> bytes | None:
    """The chunk of a slice, or None."""
    row = db.execute("SELECT data FROM chunks WHERE slice = ?", (slice_key.of(hour, animal),)).fetchone()
    return None if row is None else row[0]


def set_aside(db: sqlite3.Connection, slice_: tuple[int, int], now_ms: int) -> int:
    """Move a damaged chunk out of everybody's way; returns how many readings it was to hold."""
    where = (slice_key.of(*slice_),)
    row = db.execute("SELECT rows_n, data FROM chunks WHERE slice = ?", where).fetchone()
    if row is None:
        return 0
    db.execute("INSERT OR REPLACE INTO damaged_chunks VALUES (?, ?, ?, ?)", (*where, row[0], now_ms, row[1]))
    db.execute("DELETE FROM chunks WHERE slice = ?", where)
    return int(row[0])


def newest_hour(db: sqlite3.Connection) -> int:
    """Data hour of the newest chunk; -1 without any. Readings behind it need no look at chunks."""
    (newest,) = db.execute("SELECT max(slice) FROM chunks").fetchone()
    return -1 if newest is None else slice_key.apart(newest)[0]
