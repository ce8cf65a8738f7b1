"""The stack document 0 describes: Mosquitto, a paho subscriber with QoS 1, json, its checks, SQLite.

Run as `python -m tests.bench.document_0_stack PORT DATABASE PER_COMMIT`. With one message a commit the
journal is SQLite's default; with more it is the write-ahead log. `synchronous=FULL` both times. What
SQLite says about both stands in DATABASE.ready, once the subscription is granted.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

_log = logging.getLogger(__name__)

REQUIRED = ("cow_id", "timestamp", "temperature", "fxa", "mya", "rza")
COLUMNS = (*REQUIRED, "sxg", "lyg", "dzg", "state", "motion_intensity")
INSERT = f"INSERT OR IGNORE INTO sensor_data ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


def checked(payload: bytes) -> list[Any] | None:
    """A row, or None (and a line in the log) for a message that document 0 does not store."""
    data = json.loads(payload)
    missing = [name for name in REQUIRED if name not in data]
    if missing:
        _log.error("Missing required fields for cow_id=%s: %s", data.get("cow_id"), ", ".join(missing))
        return None
    datetime.fromisoformat(data["timestamp"])
    if not 35.0 <= float(data["temperature"]) <= 42.0:
        _log.error("Temperature out of range for cow_id=%s", data["cow_id"])
        return None
    for axis in ("fxa", "mya", "rza"):
        if not -2.0 <= float(data[axis]) <= 2.0:
            _log.error("%s out of range for cow_id=%s", axis, data["cow_id"])
            return None
    return [data.get(name) for name in COLUMNS]


def main(port: int, database: str, per_commit: int) -> None:
    db = sqlite3.connect(database, check_same_thread=False)
    if per_commit > 1:
        db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute(
        "CREATE TABLE sensor_data (id INTEGER PRIMARY KEY, cow_id TEXT, timestamp TEXT, temperature REAL,"
        " fxa REAL, mya REAL, rza REAL, sxg REAL, lyg REAL, dzg REAL, state TEXT, motion_intensity REAL,"
        " UNIQUE (cow_id, timestamp))"
    )
    db.commit()
    (journal,), (synchronous,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")
    )
    waiting = 0

    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal waiting
        row = checked(message.payload)
        if row is None:
            return
        db.execute(INSERT, row)
        waiting += 1
        if waiting == per_commit:
            db.commit()
            waiting = 0

    def on_subscribe(*_: Any) -> None:
        Path(f"{database}.ready").write_text(f"journal_mode={journal}, synchronous={synchronous}")

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="artemis_subscriber")
    client.on_connect = lambda c, *_: c.subscribe("artemis/sensors/+", qos=1)
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
