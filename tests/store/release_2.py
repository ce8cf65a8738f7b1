"""What version 2 says to a store, word for word. Frozen: never adapt it to newer code (decision 42).

Alerts, outbox and dead letters it left as release 1.0.0 has them.
"""

from __future__ import annotations

import json
import sqlite3

from tests.store import release_1
from tests.store.release_1 import HOUR_MS, NEW_READINGS, Rows

__all__ = ["HOUR_MS", "NEW_READINGS", "VERSION", "append", "opens", "read", "ship", "write"]

VERSION = 2

_VALUES = (
    "temperature_centi, fxa_milli, mya_milli, rza_milli, sxg_centi, lyg_centi, dzg_centi, state,"
    " motion_milli, received_ms, flags"
)
_INSERT = f"INSERT OR IGNORE INTO hot_readings (key, {_VALUES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READING = """a.cow_id, h.ts_ms, h.temperature_centi, h.fxa_milli, h.mya_milli, h.rza_milli,
    h.sxg_centi, h.lyg_centi, h.dzg_centi,
    CASE typeof(h.state) WHEN 'integer' THEN (SELECT s.word FROM states s WHERE s.id = h.state)
        ELSE h.state END,
    h.motion_milli, h.received_ms, h.flags"""


def opens(db: sqlite3.Connection) -> None:
    """Its checks before it uses a file; a newer version must say that it may."""
    assert db.execute("PRAGMA application_id").fetchone() == (0x41525447,)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        row = db.execute("SELECT runs_on FROM schema_versions WHERE version = ?", (version,)).fetchone()
        assert row is not None, "the schema file must record itself in schema_versions"
        assert row[0] <= VERSION, "version 2 would refuse this store"
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
    ):
        db.execute(edge).fetchone()
    assert db.execute("SELECT min(ts_ms) FROM hot").fetchone() == (None,), "it would take them over"
    assert db.execute("SELECT min(hour) FROM dirty WHERE hour > 0").fetchone() == (None,)
    kept = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('gateway_id', 'epoch')"))
    assert len(kept) == 2


def append(db: sqlite3.Connection, readings: Rows) -> list[bool]:
    """Store readings (cow_id and the rest of a row behind ts_ms); whether each was new."""
    first_seen = {row[0]: row[1] // HOUR_MS for row in reversed(readings)}
    query = "SELECT cow_id, id FROM animals WHERE cow_id IN (SELECT value FROM json_each(?))"
    wanted = json.dumps(list(first_seen))
    found = dict(db.execute(query, (wanted,)))
    if len(found) < len(first_seen):
        db.executemany(
            "INSERT INTO animals (cow_id, first_hour, last_hour) VALUES (?, ?, ?)",
            ((cow, hour, hour) for cow, hour in first_seen.items() if cow not in found),
        )
        found = dict(db.execute(query, (wanted,)))
    stored, touched = [], set()
    for cow, ts_ms, *values in readings:
        hour, animal = ts_ms // HOUR_MS, found[cow]
        db.execute("SELECT data FROM chunks WHERE slice = ?", (hour * 65536 + animal,)).fetchone()
        new = db.execute(_INSERT, (ts_ms << 15 | animal, *values)).rowcount == 1
        stored.append(new)
        if new:
            touched.add((values[-2] // HOUR_MS, hour, animal))
        else:
            db.execute(
                f"SELECT ts_ms, animal, {_VALUES} FROM hot_readings WHERE key = ?", (ts_ms << 15 | animal,)
            ).fetchone()
    db.executemany(
        "INSERT INTO undelivered (hour, animal, claim) VALUES (?, ?, 0)"
        " ON CONFLICT (hour, animal) DO UPDATE SET claim = 0 WHERE claim <> 0",
        {(hour, animal) for _, hour, animal in touched},
    )
    (closed,) = db.execute("SELECT value FROM meta WHERE key = 'closed_hour'").fetchone() or (-1,)
    db.executemany(
        "INSERT OR IGNORE INTO arrived (arrival_hour, hour, animal) VALUES (max(?, ?), ?, ?)",
        ((arrival_hour, closed + 1, hour, animal) for arrival_hour, hour, animal in touched),
    )
    db.executemany(
        "UPDATE animals SET first_hour = min(first_hour, ?1), last_hour = max(last_hour, ?1)"
        " WHERE id = ?2 AND (first_hour > ?1 OR last_hour < ?1)",
        {(hour, animal) for _, hour, animal in touched},
    )
    return stored


def write(db: sqlite3.Connection) -> None:
    """One of everything it can write."""
    assert append(db, NEW_READINGS) == [True] * 3
    assert append(db, NEW_READINGS) == [False] * 3
    release_1.write_records(db)


def ship(db: sqlite3.Connection) -> int:
    """Deliver every undelivered slice its way; the number of readings that went."""
    rows = db.execute(
        "SELECT d.hour, d.animal, a.cow_id FROM undelivered d CROSS JOIN animals a ON a.id = d.animal"
        " ORDER BY d.hour, d.animal LIMIT ?",
        (1000,),
    ).fetchall()
    db.execute(
        "INSERT INTO meta (key, value) VALUES ('claims', 1)"
        " ON CONFLICT (key) DO UPDATE SET value = value + excluded.value"
    )
    (number,) = db.execute("SELECT value FROM meta WHERE key = 'claims'").fetchone()
    sent = 0
    for hour, animal, cow_id in rows:
        db.execute("UPDATE undelivered SET claim = ? WHERE hour = ? AND animal = ?", (number, hour, animal))
        span = hour * HOUR_MS << 15, (hour + 1) * HOUR_MS << 15
        query = "SELECT count(*) FROM hot_readings WHERE key >= ? AND key < ? AND key & 32767 = ?"
        sent += db.execute(query, (*span, animal)).fetchone()[0]
        packed = db.execute("SELECT rows_n FROM chunks WHERE slice = ?", (hour * 65536 + animal,)).fetchone()
        sent += packed[0] if packed else 0
        db.execute(
            "DELETE FROM undelivered WHERE hour = ? AND claim = ?"
            " AND animal = (SELECT id FROM animals WHERE cow_id = ?)",
            (hour, number, cow_id),
        )
    (left,) = db.execute("SELECT count(*) FROM undelivered").fetchone()
    assert left == 0
    return sent


_READS = {
    **release_1.READS,
    "readings": f"SELECT {_READING} FROM hot_readings h CROSS JOIN animals a ON a.id = h.animal ORDER BY key",
    "windows": "SELECT key, temperature_centi, fxa_milli, mya_milli, rza_milli, motion_milli"
    " FROM hot_readings WHERE key >= 0 AND key < 9000000000000 << 15 ORDER BY key",
    "chunks": "SELECT slice, rows_n, arrival_hour, data FROM chunks ORDER BY slice",
    "rollups": "SELECT day_animal, arrival_hour, data FROM rollups ORDER BY day_animal",
    "arrived": "SELECT arrival_hour, hour, animal FROM arrived ORDER BY arrival_hour, hour, animal",
    "walked": "SELECT key, value FROM meta WHERE key IN ('closed_hour', 'rolled_hour', 'packed_hour')",
}


def read(db: sqlite3.Connection) -> dict[str, Rows]:
    """Everything it can read, by what it is."""
    return {name: db.execute(query).fetchall() for name, query in _READS.items()}
