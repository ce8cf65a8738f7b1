"""The stack document 0 describes: a paho subscriber, json, range checks, SQLite, one commit a message.

Run as `python -m tests.bench.document_0_stack PORT DATABASE`; pragmas: journal_mode=delete, synchronous=FULL.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt


def main(port: int, database: str) -> None:
    db = sqlite3.connect(database, check_same_thread=False)
    db.execute("PRAGMA synchronous=FULL")
    db.execute(
        "CREATE TABLE sensor_data (id INTEGER PRIMARY KEY, cow_id TEXT, timestamp TEXT, temperature REAL,"
        " fxa REAL, mya REAL, rza REAL, sxg REAL, lyg REAL, dzg REAL, UNIQUE (cow_id, timestamp))"
    )
    db.commit()

    def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        data = json.loads(message.payload)
        if any(name not in data for name in ("cow_id", "timestamp", "temperature", "fxa", "mya", "rza")):
            return
        datetime.fromisoformat(data["timestamp"])
        if not 35.0 <= float(data["temperature"]) <= 42.0:
            return
        if any(not -2.0 <= float(data[axis]) <= 2.0 for axis in ("fxa", "mya", "rza")):
            return
        names = ("cow_id", "timestamp", "temperature", "fxa", "mya", "rza", "sxg", "lyg", "dzg")
        row = [data.get(name) for name in names]
        db.execute(f"INSERT OR IGNORE INTO sensor_data ({','.join(names)}) VALUES (?,?,?,?,?,?,?,?,?)", row)
        db.commit()

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="artemis_subscriber")
    client.on_connect = lambda c, *_: c.subscribe("artemis/sensors/+", qos=1)
    client.on_subscribe = lambda *_: Path(f"{database}.subscribed").touch()
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
