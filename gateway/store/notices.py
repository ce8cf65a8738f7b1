"""Who was told of what, over which channel: functions over a connection. `add` and `begin` write.

A channel's place in the log is the cursor `notify:<channel>`; what lies behind it and is already
told to some of the people has rows here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from gateway.core.outbox import Event
from gateway.store import outbox

SENT = "sent"
DIGEST = "digest"
DROPPED = "dropped"
_COLUMNS = "channel, seq, contact, outcome, at_ms, alert_id, address"


class Notice(msgspec.Struct, frozen=True):
    """What became of an event for one person on one channel.

    Args:
        channel: its name.
        seq: of the event.
        contact: the person's name.
        outcome: `SENT` (a letter the service has taken; of a digest its newest event), `DIGEST` (told
            in that letter) or `DROPPED` (given up).
        at_ms: when, the gateway's clock.
        alert_id: None for a summary.
        address: where it went.
    """

    channel: str
    seq: int
    contact: str
    outcome: str
    at_ms: int
    alert_id: int | None
    address: str


class Window(msgspec.Struct, frozen=True):
    """The events behind a cursor, oldest and newest of them.

    Args:
        events: in order.
        until_seq: none is missing up to here; the cursor itself if there is none.
        more: whether there are others after `until_seq` that `events` may lack.
    """

    events: tuple[Event, ...]
    until_seq: int
    more: bool


def begin(db: sqlite3.Connection, destination: str) -> int:
    """The cursor; of a destination without one, from now on the present end of the log."""
    row = db.execute("SELECT seq FROM cursors WHERE destination = ?", (destination,)).fetchone()
    if row is None:
        (end,) = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
        outbox.advance(db, destination, end)
        return int(end)
    return int(row[0])


def window(db: sqlite3.Connection, after_seq: int, n: int) -> Window:
    """The `n` oldest events after a seq, and the `n` newest where there are more."""
    oldest = outbox.after(db, after_seq, n)
    until_seq = oldest[-1].seq if oldest else after_seq
    if len(oldest) < n:
        return Window(tuple(oldest), until_seq, more=False)
    rows = db.execute(
        "SELECT seq, kind, created_ms, payload FROM events WHERE seq > ? ORDER BY seq DESC LIMIT ?",
        (until_seq, n),
    ).fetchall()
    newest = [Event(seq=row[0], kind=row[1], created_ms=row[2], payload=row[3]) for row in reversed(rows)]
    return Window((*oldest, *newest), until_seq, more=bool(newest))


def add(db: sqlite3.Connection, notices: Iterable[Notice]) -> None:
    """Note them; the same event, person and address again changes nothing."""
    db.executemany(
        f"INSERT OR IGNORE INTO notices ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [msgspec.structs.astuple(notice) for notice in notices],
    )


def done(db: sqlite3.Connection, channel: str, after_seq: int) -> set[tuple[int, str]]:
    """(seq, address) of what is told or given up, of the events after a seq."""
    rows = db.execute("SELECT seq, address FROM notices WHERE channel = ? AND seq > ?", (channel, after_seq))
    return {(seq, address) for seq, address in rows}


def letters_since(db: sqlite3.Connection, channel: str, since_ms: int) -> list[tuple[str, int]]:
    """(address, at_ms) of each letter the service has taken since an instant, oldest first."""
    rows = db.execute(
        "SELECT address, at_ms FROM notices WHERE at_ms > ? AND channel = ? AND outcome = ? ORDER BY at_ms",
        (since_ms, channel, SENT),
    )
    return [(address, at_ms) for address, at_ms in rows]


def of_alert(db: sqlite3.Connection, alert_id: int) -> list[Notice]:
    """Who was told of an alert, in order of time."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM notices WHERE alert_id = ? ORDER BY at_ms, seq, channel, address",
        (alert_id,),
    )
    return [Notice(*row) for row in rows]
