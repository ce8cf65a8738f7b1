"""The append-only log of what leaves the gateway, and each destination's place in it.

Functions over a connection; `append` and `advance` write. The message id is core.outbox.message_id.
"""

from __future__ import annotations

import sqlite3

from gateway.core.outbox import Event


def append(db: sqlite3.Connection, kind: str, payload: bytes, now_ms: int) -> int:
    """Add an event; returns its seq, which is never given out twice within an epoch."""
    row = db.execute(
        "INSERT INTO events (kind, created_ms, payload) VALUES (?, ?, ?) RETURNING seq",
        (kind, now_ms, payload),
    ).fetchone()
    return int(row[0])


def after(db: sqlite3.Connection, seq: int, limit: int) -> list[Event]:
    """Events behind `seq`, in order."""
    rows = db.execute(
        "SELECT seq, kind, created_ms, payload FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
        (seq, limit),
    )
    return [Event(seq=row[0], kind=row[1], created_ms=row[2], payload=row[3]) for row in rows]


def cursor(db: sqlite3.Connection, destination: str) -> int:
    """The last seq this destination has acknowledged; 0 for one that never did."""
    row = db.execute("SELECT seq FROM cursors WHERE destination = ?", (destination,)).fetchone()
    return int(row[0]) if row else 0


def advance(db: sqlite3.Connection, destination: str, seq: int) -> None:
    """Everything up to `seq` was acknowledged. A cursor never goes back."""
    db.execute(
        "INSERT INTO cursors (destination, seq) VALUES (?, ?)"
        " ON CONFLICT (destination) DO UPDATE SET seq = max(seq, excluded.seq)",
        (destination, seq),
    )


def pending(db: sqlite3.Connection, destination: str) -> int:
    """Events this destination has not acknowledged yet."""
    (rows,) = db.execute("SELECT count(*) FROM events WHERE seq > ?", (cursor(db, destination),)).fetchone()
    return int(rows)
