"""What version 3 says to a store, word for word. Frozen: never adapt it to newer code (decision 42).

Readings, alerts, outbox and dead letters it left as version 2 has them.
"""

from __future__ import annotations

import sqlite3

from tests.store import release_2
from tests.store.release_2 import HOUR_MS, NEW_READINGS, append, ship

__all__ = ["HOUR_MS", "NEW_READINGS", "VERSION", "append", "opens", "read", "ship", "write"]

VERSION = 3


def opens(db: sqlite3.Connection) -> None:
    """Its checks before it uses a file; a newer version must say that it may."""
    assert db.execute("PRAGMA application_id").fetchone() == (0x41525447,)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        row = db.execute("SELECT runs_on FROM schema_versions WHERE version = ?", (version,)).fetchone()
        assert row is not None, "the schema file must record itself in schema_versions"
        assert row[0] <= VERSION, "version 3 would refuse this store"
    for edge in (
        "SELECT max(id) FROM animals",
        "SELECT max(id) FROM alert_episodes",
        "SELECT max(seq) FROM events",
        "SELECT max(id) FROM dead_letters",
        "SELECT max(ts_ms) FROM hot",
        "SELECT max(hour) FROM dirty",
        "SELECT max(key) FROM hot_readings",
        "SELECT max(hour) FROM undelivered",
        "SELECT max(arrival_hour) FROM arrived",
        "SELECT max(slice) FROM chunks",
        "SELECT max(day_animal) FROM rollups",
        "SELECT max(id) FROM broker_sessions",
        "SELECT max(id) FROM broker_retained",
    ):
        db.execute(edge).fetchone()
    assert db.execute("SELECT min(ts_ms) FROM hot").fetchone() == (None,), "it would take them over"
    assert db.execute("SELECT min(hour) FROM dirty WHERE hour > 0").fetchone() == (None,)
    kept = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('gateway_id', 'epoch')"))
    assert len(kept) == 2


def write(db: sqlite3.Connection) -> None:
    """One of everything it can write."""
    release_2.write(db)
    (session,) = db.execute(
        "INSERT INTO broker_sessions (client_id, seen_ms) VALUES (?, ?) RETURNING id",
        ("rolled-back", 1_764_050_000_000),
    ).fetchone()
    for table in ("broker_filters", "broker_waiting", "broker_received"):
        db.execute(f"DELETE FROM {table} WHERE session = ?", (session,))
    db.execute(
        "INSERT INTO broker_filters (session, topic_filter, qos) VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET qos = excluded.qos WHERE qos <> excluded.qos",
        (session, "artemis/alerts/#", 1),
    )
    db.execute(
        "INSERT OR REPLACE INTO broker_waiting"
        " (session, number, received, qos, retain, topic, payload) VALUES (?, ?, 0, ?, ?, ?, ?)",
        (session, 0, 1, 0, "barn/door", b"shut"),
    )
    db.execute("INSERT OR IGNORE INTO broker_received (session, packet_id) VALUES (?, ?)", (session, 4))
    db.execute(
        "INSERT INTO broker_retained (topic, qos, payload) VALUES (?, ?, ?) ON CONFLICT (topic)"
        " DO UPDATE SET qos = excluded.qos, payload = excluded.payload"
        " WHERE qos <> excluded.qos OR payload <> excluded.payload",
        ("barn/gate", 1, b"shut"),
    )


_READS = {
    "broker_sessions": "SELECT id, client_id, seen_ms FROM broker_sessions ORDER BY id",
    "broker_filters": "SELECT session, topic_filter, qos FROM broker_filters ORDER BY id",
    "broker_waiting": "SELECT session, number, received, qos, retain, topic, payload"
    " FROM broker_waiting ORDER BY session, number",
    "broker_received": "SELECT session, packet_id FROM broker_received ORDER BY session, packet_id",
    "broker_retained": "SELECT topic, qos, payload FROM broker_retained ORDER BY id",
}


def read(db: sqlite3.Connection) -> dict[str, release_2.Rows]:
    """Everything it can read, by what it is."""
    own = {name: db.execute(query).fetchall() for name, query in _READS.items()}
    return {**release_2.read(db), **own}
