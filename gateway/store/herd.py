"""The herd's readings as one table, for the windows of the detectors. Functions over a connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 8192
"""Rows turned into arrays at a time: 8192 × 7 Python numbers are about 2 MB, whatever is asked for."""


class HerdTable(msgspec.Struct, frozen=True, eq=False):
    """Readings of many animals in the order of their instants, one entry each.

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
    db: sqlite3.Connection, from_ms: int, to_ms: int, cow_ids: Iterable[str] | None = None
) -> HerdTable:
    """Readings with from_ms ≤ instant < to_ms of these animals (None: all), in one pass over `hot`."""
    query = (
        "SELECT animal, ts_ms, temperature_centi, fxa_milli, mya_milli, rza_milli, motion_milli"
        " FROM hot WHERE ts_ms >= ? AND ts_ms < ?"
    )
    bound: tuple[object, ...] = (from_ms, to_ms)
    if cow_ids is not None:
        query += " AND animal IN (SELECT id FROM animals WHERE cow_id IN (SELECT value FROM json_each(?)))"
        bound = (*bound, json.dumps(list(cow_ids)))
    rows = db.execute(f"{query} ORDER BY ts_ms, animal", bound)
    blocks = []
    while block := rows.fetchmany(BLOCK_ROWS):
        blocks.append(np.array(block, dtype=np.float64))  # None becomes NaN
    table = np.concatenate(blocks) if blocks else np.empty((0, 7))
    animals, cow = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
    names = dict(
        db.execute(
            "SELECT id, cow_id FROM animals WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(animals.tolist()),),
        )
    )
    return HerdTable(
        cow_ids=[str(names[animal]) for animal in animals.tolist()],
        cow=cow.astype(np.int32),
        timestamp_ms=table[:, 1].astype(np.int64),
        values=table[:, 2:] / np.array([100, 1000, 1000, 1000, 1000]),
    )


def last_hours(db: sqlite3.Connection, limit: int) -> dict[str, int]:
    """The hour (since 1970) of each animal's newest reading, newest first, at most `limit` animals."""
    return dict(
        db.execute("SELECT cow_id, last_hour FROM animals ORDER BY last_hour DESC, id LIMIT ?", (limit,))
    )
