"""Rows of `hot` as arrays of whole numbers. Functions over a connection; they read only."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from gateway.store.columns import MISSING

Int64 = npt.NDArray[np.int64]

BLOCK_ROWS = 8192
"""Rows turned into arrays at a time: 8192 × 10 Python numbers are about 3 MB, whatever is asked for."""
NULLABLE = frozenset({"sxg_centi", "lyg_centi", "dzg_centi", "motion_milli", "state"})


def table(
    db: sqlite3.Connection,
    columns: Sequence[str],
    from_ms: int,
    to_ms: int,
    animals: Collection[int] | None = None,
) -> Int64:
    """Columns of `hot` with from_ms ≤ instant < to_ms, in order of (instant, animal).

    Args:
        db: any connection.
        columns: names in `hot`; a `state` that is a word of its own shows as -1.
        from_ms: UTC epoch ms, the first that counts.
        to_ms: the first that does not.
        animals: their numbers; None = all.

    Returns:
        Array [rows, columns]; `MISSING` where nothing was sent.
    """
    names = ", ".join(_expression(name) for name in columns)
    query = f"SELECT {names} FROM hot WHERE ts_ms >= ? AND ts_ms < ?"
    arguments: tuple[object, ...] = (from_ms, to_ms)
    if animals is not None and len(animals) == 1:
        query, arguments = f"{query} AND animal = ?", (*arguments, *animals)
    elif animals is not None:
        query = f"{query} AND animal IN (SELECT value FROM json_each(?))"
        arguments = (*arguments, json.dumps(list(animals)))
    cursor = db.execute(f"{query} ORDER BY ts_ms, animal", arguments)
    blocks = []
    while block := cursor.fetchmany(BLOCK_ROWS):
        flat = np.fromiter(chain.from_iterable(block), np.int64, len(block) * len(columns))
        blocks.append(flat.reshape(len(block), len(columns)))
    return np.concatenate(blocks) if blocks else np.empty((0, len(columns)), np.int64)


def _expression(name: str) -> str:
    if name == "state":
        return f"CASE typeof(state) WHEN 'text' THEN -1 ELSE ifnull(state, {MISSING}) END"
    return f"ifnull({name}, {MISSING})" if name in NULLABLE else name
