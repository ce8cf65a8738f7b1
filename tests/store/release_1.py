"""What release 1.0.0 says to a store, word for word. Frozen: never adapt it to newer code (decision 42)."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

VERSION = 1
HOUR_MS = 3_600_000

_INSERT = "INSERT OR IGNORE INTO hot VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
_VALUES = (
    "temperature_centi, fxa_milli, mya_milli, rza_milli, sxg_centi, lyg_centi, dzg_centi, state, motion_milli"
)
_READING = """a.cow_id, h.ts_ms, h.temperature_centi, h.fxa_milli, h.mya_milli, h.rza_milli,
    h.sxg_centi, h.lyg_centi, h.dzg_centi,
    CASE typeof(h.state) WHEN 'integer' THEN (SELECT s.word FROM states s WHERE s.id = h.state)
        ELSE h.state END,
    h.motion_milli, h.received_ms, h.flags"""
_SELECT = f"SELECT {_READING} FROM hot h CROSS JOIN animals a ON a.id = h.animal"
_ALERT = (
    "subject, kind, episode, severity, state, onset_ms, last_seen_ms, raised_ms, changed_ms, "
    "confidence, sentence, evidence, detail, clear_n, late, ended_ms"
)
_LETTER = "received_ms, topic, payload, client_id, reason, text, cow_id"

Rows = list[tuple[Any, ...]]

NEW_READINGS: Rows = [
    ("COW_001", 1_764_039_000_000, 3861, 100, 20, -990, None, None, None, 1, None, 1_764_039_000_500, 0),
    ("COW_NEW", 1_764_039_000_000, 3902, -100, 2, -980, 288, -14, 187, "odd", 44, 1_764_039_000_500, 1),
    (
        "COW_002",
        1_763_942_400_000 + 60_000,
        3911,
        0,
        0,
        -1000,
        None,
        None,
        None,
        None,
        None,
        1_764_039_001_000,
        2,
    ),
]
"""Written by the old code on the migrated file: a known animal, a new one, a late reading."""


def opens(db: sqlite3.Connection) -> None:
    """Its checks before it uses a file; a newer version must say that it may."""
    assert db.execute("PRAGMA application_id").fetchone() == (0x41525447,)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        row = db.execute("SELECT runs_on FROM schema_versions WHERE version = ?", (version,)).fetchone()
        assert row is not None, "the schema file must record itself in schema_versions"
        assert row[0] <= VERSION, "release 1.0.0 would refuse this store"
    for edge in (
        "SELECT min(ts_ms) FROM hot",
        "SELECT max(ts_ms) FROM hot",
        "SELECT max(id) FROM animals",
        "SELECT max(hour) FROM dirty",
        "SELECT max(id) FROM alert_episodes",
        "SELECT max(seq) FROM events",
        "SELECT max(id) FROM dead_letters",
    ):
        db.execute(edge).fetchone()
    made = {"gateway_id": "gw-never", "epoch": "never"}
    db.executemany("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", made.items())
    kept = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('gateway_id', 'epoch')"))
    assert "never" not in kept.values()


def append(db: sqlite3.Connection, readings: Rows) -> list[bool]:
    """Store readings (cow_id and the rest of a row of `hot` behind ts_ms); whether each was new."""
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
    for cow, *rest in readings:
        row = (rest[0], found[cow], *rest[1:])
        new = db.execute(_INSERT, row).rowcount == 1
        stored.append(new)
        if new:
            touched.add((row[0] // HOUR_MS, row[1]))
        else:
            db.execute(f"SELECT {_VALUES} FROM hot WHERE ts_ms = ? AND animal = ?", row[:2]).fetchone()
    (rev,) = db.execute("SELECT rev + 1 FROM dirty WHERE hour = 0 AND animal = 0").fetchone()
    db.executemany(
        "INSERT INTO dirty (hour, animal, rev) VALUES (?, ?, ?)"
        " ON CONFLICT (hour, animal) DO UPDATE SET rev = excluded.rev",
        ((hour, animal, rev) for hour, animal in ((0, 0), *touched)),
    )
    db.executemany(
        "UPDATE animals SET first_hour = min(first_hour, ?1), last_hour = max(last_hour, ?1)"
        " WHERE id = ?2 AND (first_hour > ?1 OR last_hour < ?1)",
        touched,
    )
    return stored


def write(db: sqlite3.Connection) -> None:
    """One of everything it can write."""
    assert append(db, NEW_READINGS) == [True] * 3
    assert append(db, NEW_READINGS) == [False] * 3
    write_records(db)


def write_records(db: sqlite3.Connection) -> None:
    """An alert and its step, an event, a cursor, a dead letter, a counter."""
    values = ("COW_NEW", "fever", 1, 2, "active", 1, 2, 3, 4, 0.5, "hot", "{}", "single_reading", 0, 0, None)
    marks = ", ".join("?" * len(values))
    (number,) = db.execute(
        f"INSERT INTO alert_episodes ({_ALERT}) VALUES ({marks}) RETURNING id", values
    ).fetchone()
    db.execute(f"UPDATE alert_episodes SET ({_ALERT}) = ({marks}) WHERE id = ?", (*values, number))
    db.execute(
        "INSERT INTO alert_history"
        " (alert_id, at_ms, from_state, to_state, severity, who, origin, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (number, 5, "", "active", 2, "gateway", "automatic", "hot"),
    )
    db.execute(
        "INSERT INTO events (kind, created_ms, payload) VALUES (?, ?, ?) RETURNING seq", ("alert", 6, b"{}")
    ).fetchone()
    db.execute(
        "INSERT INTO cursors (destination, seq) VALUES (?, ?)"
        " ON CONFLICT (destination) DO UPDATE SET seq = max(seq, excluded.seq)",
        ("cloud", 2),
    )
    db.execute(
        f"INSERT INTO dead_letters ({_LETTER}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (7, "artemis/sensors/COW_9", b"{", "collar", "not_json_object", "bad", None),
    )
    db.execute("DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?", (10_000,))
    db.execute(
        "INSERT INTO meta (key, value) VALUES ('dead_letters_dropped', ?)"
        " ON CONFLICT (key) DO UPDATE SET value = value + excluded.value",
        (0,),
    )


def ship(db: sqlite3.Connection) -> int:
    """Deliver every undelivered slice its way; the number of readings that went."""
    sent = 0
    rows = db.execute(
        "SELECT d.hour, a.cow_id, d.rev FROM dirty d CROSS JOIN animals a ON a.id = d.animal"
        " WHERE d.hour > 0 ORDER BY d.hour, d.animal LIMIT ?",
        (1000,),
    ).fetchall()
    for hour, cow_id, rev in rows:
        sent += len(
            db.execute(
                f"{_SELECT} WHERE h.ts_ms >= ? AND h.ts_ms < ? AND h.animal ="
                " (SELECT id FROM animals WHERE cow_id = ?) ORDER BY h.ts_ms",
                (hour * HOUR_MS, (hour + 1) * HOUR_MS, cow_id),
            ).fetchall()
        )
        db.execute(
            "DELETE FROM dirty WHERE hour = ? AND rev = ? AND animal ="
            " (SELECT id FROM animals WHERE cow_id = ?)",
            (hour, rev, cow_id),
        )
    (left,) = db.execute("SELECT count(*) FROM dirty WHERE hour > 0").fetchone()
    assert left == 0
    return sent


READS = {
    "readings": f"{_SELECT} ORDER BY h.ts_ms, h.animal",
    "sensor_data": "SELECT * FROM sensor_data ORDER BY timestamp_ms, cow_id",
    "alerts": "SELECT * FROM alerts ORDER BY id",
    "open": f"SELECT id, {_ALERT} FROM alert_episodes WHERE state IN ('active', 'acknowledged') ORDER BY id",
    "latest": f"SELECT id, {_ALERT} FROM alert_episodes AS a WHERE episode = (SELECT max(b.episode)"
    " FROM alert_episodes b WHERE b.subject = a.subject AND b.kind = a.kind) ORDER BY id",
    "history": "SELECT alert_id, at_ms, from_state, to_state, severity, who, origin, reason"
    " FROM alert_history ORDER BY id",
    "events": "SELECT seq, kind, created_ms, payload FROM events WHERE seq > 0 ORDER BY seq LIMIT 1000",
    "cursors": "SELECT destination, seq FROM cursors ORDER BY destination",
    "letters": f"SELECT {_LETTER} FROM dead_letters ORDER BY id DESC LIMIT 1000",
    "windows": "SELECT animal, ts_ms, temperature_centi, fxa_milli, mya_milli, rza_milli, motion_milli"
    " FROM hot WHERE ts_ms >= 0 AND ts_ms < 9000000000000 ORDER BY ts_ms, animal",
    "animals": "SELECT id, cow_id, first_hour, last_hour FROM animals ORDER BY id",
}


def read(db: sqlite3.Connection) -> dict[str, Rows]:
    """Everything it can read, by what it is."""
    return {name: db.execute(query).fetchall() for name, query in READS.items()}
