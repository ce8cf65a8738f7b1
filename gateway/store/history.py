"""Readings as they were sent, over any span. A function over a connection; reads only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from gateway.core.readings import Reading
from gateway.store.readings import _SELECT, HOUR_MS, _decode


def raw(
    db: sqlite3.Connection, from_ms: int, to_ms: int, cow_ids: Sequence[str] | None
) -> Iterator[list[Reading]]:
    """Readings with from_ms ≤ instant < to_ms, an hour at a time, by animal and instant within it.

    Hours without readings cost nothing. Each hour is one snapshot, so a reader that takes its time
    does not hold the log.

    Args:
        db: a read-only connection is enough.
        from_ms: UTC epoch milliseconds.
        to_ms: exclusive.
        cow_ids: only these animals; None = all.
    """
    wanted = None if cow_ids is None else set(cow_ids)
    at_ms = from_ms
    while True:
        (first,) = db.execute(
            "SELECT min(ts_ms) FROM hot WHERE ts_ms >= ? AND ts_ms < ?", (at_ms, to_ms)
        ).fetchone()
        if first is None:
            return
        at_ms = (first // HOUR_MS + 1) * HOUR_MS
        rows = db.execute(
            f"{_SELECT} WHERE h.ts_ms >= ? AND h.ts_ms < ? ORDER BY h.animal, h.ts_ms",
            (first, min(at_ms, to_ms)),
        ).fetchall()
        hour = [_decode(row) for row in rows if wanted is None or row[0] in wanted]
        if hour:
            yield hour
