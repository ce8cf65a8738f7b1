"""The herd's readings as one table, for the windows of the detectors. Functions over a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.instants import HOURS_PER_DAY
from gateway.store import spans

_COLUMNS = ("temperature_c", "fxa_g", "mya_g", "rza_g", spans.REPORTED)


class HerdTable(msgspec.Struct, frozen=True, eq=False):
    """Readings of many animals, by animal and instant, one entry each.

    Args:
        cow_ids: the animals that are in it.
        cow: index into `cow_ids`.
        timestamp_ms: UTC epoch ms.
        values: [n, 5]: temperature °C, three axes g, the collar's own motion g (NaN = not sent).
    """

    cow_ids: list[str]
    cow: npt.NDArray[np.int32]
    timestamp_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


def herd_table(
    db: sqlite3.Connection, from_ms: int, to_ms: int, cow_ids: Collection[str] | None = None
) -> HerdTable:
    """Readings with from_ms ≤ instant < to_ms of these animals (None: all).

    Raises:
        ChunkError: a packed hour is damaged.
    """
    names: dict[int, str] = dict(db.execute("SELECT id, cow_id FROM animals"))
    animals = None
    if cow_ids is not None:
        wanted = set(cow_ids)
        animals = {animal for animal, cow_id in names.items() if cow_id in wanted}
    table = spans.cells(db, from_ms, to_ms, animals, _COLUMNS)
    present, cow = np.unique(table[:, 1], return_inverse=True)
    return HerdTable(
        cow_ids=[names[animal] for animal in present.tolist()],
        cow=cow.astype(np.int32),
        timestamp_ms=table[:, 0],
        values=np.stack([spans.in_units(table[:, at], name) for at, name in enumerate(_COLUMNS, 2)], axis=1),
    )


def last_hours(db: sqlite3.Connection, limit: int) -> dict[str, int]:
    """The hour (since 1970) of each animal's newest reading, newest first, at most `limit` animals."""
    return dict(
        db.execute("SELECT cow_id, last_hour FROM animals ORDER BY last_hour DESC, id LIMIT ?", (limit,))
    )


def horizon_hour(db: sqlite3.Connection) -> int:
    """The last hour of data that a collar with a right clock can have sent (decision 7)."""
    (newest,) = db.execute("SELECT max(arrival_hour) FROM arrived").fetchone()
    return (0 if newest is None else int(newest)) + HOURS_PER_DAY
