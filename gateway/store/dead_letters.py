"""Rejected messages, kept to be counted, explained and replayed (decision 10). `add` writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from gateway.core.messages import DeadLetter, Reason
from gateway.store import meta

DEAD_LETTERS_MAX = 10_000
"""Newest ones that are kept. At worst (4 KiB of payload, 2 KB of names) 65 MB; usually 0.4 KB each."""
PAYLOAD_BYTES_MAX = 4096
"""First 4 KiB of the payload (decision 10)."""
TOPIC_CHARS_MAX = 512
CLIENT_CHARS_MAX = 128
TEXT_CHARS_MAX = 1024
COW_ID_CHARS_MAX = 64
"""Names come from a sender that is already in the wrong; MQTT would let each be 64 KiB."""

_DROPPED = "dead_letters_dropped"
_COLUMNS = "received_ms, topic, payload, client_id, reason, text, cow_id"


def add(db: sqlite3.Connection, letters: Sequence[DeadLetter]) -> None:
    """Keep `letters`; beyond DEAD_LETTERS_MAX the oldest go and are counted in `dropped`."""
    if not letters:
        return
    db.executemany(
        f"INSERT INTO dead_letters ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (
                letter.received_ms,
                _text(letter.topic, TOPIC_CHARS_MAX),
                letter.payload[:PAYLOAD_BYTES_MAX],
                _text(letter.client_id, CLIENT_CHARS_MAX),
                letter.reason.value,
                _text(letter.text, TEXT_CHARS_MAX),
                None if letter.cow_id is None else _text(letter.cow_id, COW_ID_CHARS_MAX),
            )
            for letter in letters
        ),
    )
    # Ids are given out without gaps, so the bound needs no counting of rows.
    cut = db.execute(
        "DELETE FROM dead_letters WHERE id <= (SELECT max(id) FROM dead_letters) - ?", (DEAD_LETTERS_MAX,)
    ).rowcount
    if cut:
        meta.add(db, _DROPPED, cut)


def count(db: sqlite3.Connection) -> int:
    """Letters kept now."""
    (rows,) = db.execute("SELECT count(*) FROM dead_letters").fetchone()
    return int(rows)


def dropped(db: sqlite3.Connection) -> int:
    """Letters that had to go since the store was made, because newer ones needed their place."""
    return int(meta.get(db, _DROPPED) or 0)


def recent(db: sqlite3.Connection, limit: int) -> list[DeadLetter]:
    """The newest letters, newest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM dead_letters ORDER BY id DESC LIMIT ?", (limit,))
    return [
        DeadLetter(
            received_ms=received_ms,
            topic=topic,
            payload=payload,
            client_id=client_id,
            reason=Reason(reason),
            text=text,
            cow_id=cow_id,
        )
        for received_ms, topic, payload, client_id, reason, text, cow_id in rows
    ]


def _text(value: str, chars_max: int) -> str:
    """Cut, and made storable: half a surrogate pair would fail the batch of everybody else."""
    return value[:chars_max].encode("utf-8", "backslashreplace").decode("utf-8")
