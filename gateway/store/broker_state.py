"""The broker's sessions and retained messages on disk: functions over a connection.

`apply` runs in the writer thread, in the transaction of the readings that came with it; `load` on a
reader, before the broker starts. A page that cannot be read is damage of the store, as anywhere; a
row that reads and cannot be what it should be is left out and counted.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import Any

from gateway.core.broker_state import (
    BrokerState,
    Change,
    Done,
    IdReleased,
    IdTaken,
    KeptSession,
    Message,
    Queued,
    Received,
    Retained,
    SessionForgotten,
    SessionSeen,
    StateBounds,
    Subscribed,
    Unsubscribed,
    Waiting,
)
from gateway.core.topics import filter_fault, topic_fault

SEEN_STEP_MS = 3_600_000
"""`seen_ms` is written when it moves by an hour: it orders sessions that are idle for days. Collars that
wake every minute would otherwise write 17 rows a commit (1000 of them, 0.5 s), each on its own page."""
PACKET_ID_MAX = 65_535
NUMBER_MAX = 2**53
"""Of a waiting message: 1000 a second for 285,000 years. Numbers go on from the highest that comes back, and
one near 2^63, which only damage writes, would soon be none that SQLite takes."""

_QOS = (0, 1, 2)
_FLAG = (0, 1)
_INTEGER = "CASE typeof({0}) WHEN 'integer' THEN {0} END"
_BLOB = "CASE typeof({0}) WHEN 'blob' THEN {0} END"
_TEXT = "CASE typeof({0}) WHEN 'text' THEN CAST({0} AS BLOB) END"
"""A column, or NULL where someone has put another type; text as its bytes, which may be no UTF-8."""
_SESSION = _INTEGER.format("session")
_MESSAGE = (_TEXT.format("topic"), _BLOB.format("payload"), _INTEGER.format("qos"))

_OF_SESSION = ("broker_filters", "broker_waiting", "broker_received")


def apply(db: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Write what has changed. The same changes once more change nothing.

    Changes of a session that is not known are nothing, but for the one that begins it.
    """
    sessions: dict[str, int | None] = {}
    for change in changes:
        if isinstance(change, Retained):
            _retain(db, change.message)
            continue
        client_id = change.client_id
        if client_id not in sessions:
            sessions[client_id] = _number(db, client_id)
        session = sessions[client_id]
        if isinstance(change, SessionSeen):
            sessions[client_id] = _see(db, session, change)
        elif session is not None:
            _change(db, session, change)
            if isinstance(change, SessionForgotten):
                sessions[client_id] = None


def _number(db: sqlite3.Connection, client_id: str) -> int | None:
    row = db.execute("SELECT id FROM broker_sessions WHERE client_id = ?", (client_id,)).fetchone()
    return None if row is None else int(row[0])


def _see(db: sqlite3.Connection, session: int | None, seen: SessionSeen) -> int:
    if session is not None:
        db.execute(
            "UPDATE broker_sessions SET seen_ms = ?2 WHERE id = ?1 AND abs(seen_ms - ?2) >= ?3",
            (session, seen.seen_ms, SEEN_STEP_MS),
        )
        return session
    (made,) = db.execute(
        "INSERT INTO broker_sessions (client_id, seen_ms) VALUES (?, ?) RETURNING id",
        (seen.client_id, seen.seen_ms),
    ).fetchone()
    _empty(db, made)  # the number may have been that of a row which damage took
    return int(made)


def _empty(db: sqlite3.Connection, session: int) -> None:
    for table in _OF_SESSION:
        db.execute(f"DELETE FROM {table} WHERE session = ?", (session,))


def _change(db: sqlite3.Connection, session: int, change: Change) -> None:
    match change:
        case SessionForgotten():
            _empty(db, session)
            db.execute("DELETE FROM broker_sessions WHERE id = ?", (session,))
        case Subscribed(topic_filter=topic_filter, qos=qos):  # clients say it again at every connect
            db.execute(
                "INSERT INTO broker_filters (session, topic_filter, qos) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET qos = excluded.qos WHERE qos <> excluded.qos",
                (session, topic_filter, qos),
            )
        case Unsubscribed(topic_filter=topic_filter):
            db.execute(
                "DELETE FROM broker_filters WHERE session = ? AND topic_filter = ?", (session, topic_filter)
            )
        case Queued(number=number, message=message):
            db.execute(
                "INSERT OR REPLACE INTO broker_waiting"
                " (session, number, received, qos, retain, topic, payload) VALUES (?, ?, 0, ?, ?, ?, ?)",
                (session, number, message.qos, int(message.retain), message.topic, message.payload),
            )
        case Received(number=number):
            db.execute(
                "UPDATE broker_waiting SET received = 1 WHERE session = ? AND number = ? AND received = 0",
                (session, number),
            )
        case Done(number=number):
            db.execute("DELETE FROM broker_waiting WHERE session = ? AND number = ?", (session, number))
        case IdTaken(packet_id=packet_id):
            db.execute(
                "INSERT OR IGNORE INTO broker_received (session, packet_id) VALUES (?, ?)",
                (session, packet_id),
            )
        case IdReleased(packet_id=packet_id):
            db.execute(
                "DELETE FROM broker_received WHERE session = ? AND packet_id = ?", (session, packet_id)
            )


def _retain(db: sqlite3.Connection, message: Message) -> None:
    if not message.payload:
        db.execute("DELETE FROM broker_retained WHERE topic = ?", (message.topic,))
        return
    db.execute(  # a state that is told again is not written again
        "INSERT INTO broker_retained (topic, qos, payload) VALUES (?, ?, ?) ON CONFLICT (topic)"
        " DO UPDATE SET qos = excluded.qos, payload = excluded.payload"
        " WHERE qos <> excluded.qos OR payload <> excluded.payload",
        (message.topic, message.qos, message.payload),
    )


def forget_received_ids(db: sqlite3.Connection) -> None:
    """Of a store that is not the latest: a restored backup.

    An id that its client has released since would swallow the next message that carries it; without
    it a message may come twice, and a reading that comes twice is stored once.
    """
    db.execute("DELETE FROM broker_received")


def load(db: sqlite3.Connection, bounds: StateBounds) -> BrokerState:
    """The state as it was left, whatever anyone has written into the tables.

    Args:
        db: any connection; one snapshot.
        bounds: what lies beyond them is left out. Of too many sessions those seen last are taken.

    Raises:
        sqlite3.DatabaseError: a page cannot be read.
    """
    reading = _Reading(db, bounds)
    sessions = reading.sessions()
    retained = reading.retained()
    return BrokerState(sessions, retained, reading.left_out)


class _Reading:
    """One load, and what it leaves out. Values come as _INTEGER, _BLOB or _TEXT."""

    def __init__(self, db: sqlite3.Connection, bounds: StateBounds) -> None:
        self.left_out = 0
        self._db = db
        self._bounds = bounds

    def sessions(self) -> tuple[KeptSession, ...]:
        known: dict[int, tuple[str, int]] = {}
        columns = "id", _TEXT.format("client_id"), _INTEGER.format("seen_ms")
        for session, encoded, seen_ms in self._rows("broker_sessions", columns, "seen_ms DESC, id"):
            client_id = _decoded(encoded)
            if not client_id or seen_ms is None or seen_ms < 0 or len(known) >= self._bounds.sessions:
                self.left_out += 1
            else:
                known[session] = client_id, seen_ms
        filters, waiting, ids = self._filters(known), self._waiting(known), self._ids(known)
        return tuple(
            KeptSession(
                client_id, filters[session], tuple(waiting[session]), frozenset(ids[session]), seen_ms
            )
            for session, (client_id, seen_ms) in reversed(known.items())
        )

    def retained(self) -> tuple[Message, ...]:
        found: list[Message] = []
        room_bytes = self._bounds.retained_bytes
        for row in self._rows("broker_retained", _MESSAGE, "id"):
            message = _message(*row, retain=True)
            full = len(found) >= self._bounds.retained
            if message is None or not 0 < len(message.payload) <= room_bytes or full:
                self.left_out += 1
            else:
                room_bytes -= len(message.payload)
                found.append(message)
        return tuple(found)

    def _filters(self, known: Container[int]) -> dict[int, dict[str, int]]:
        found: defaultdict[int, dict[str, int]] = defaultdict(dict)
        columns = _SESSION, _TEXT.format("topic_filter"), _INTEGER.format("qos")
        for session, encoded, qos in self._rows("broker_filters", columns, "id"):
            topic_filter = _decoded(encoded)
            foreign = session not in known or len(found[session]) >= self._bounds.filters
            if topic_filter is None or filter_fault(topic_filter) is not None or qos not in _QOS or foreign:
                self.left_out += 1
            else:
                found[session][topic_filter] = qos
        return found

    def _waiting(self, known: Container[int]) -> dict[int, list[Waiting]]:
        found: defaultdict[int, list[Waiting]] = defaultdict(list)
        room_bytes = self._bounds.waiting_bytes
        numbers = (_INTEGER.format(name) for name in ("number", "received", "retain"))
        columns = (_SESSION, *numbers, *_MESSAGE)
        for session, *row in self._rows("broker_waiting", columns, "session, number"):
            one = _waiting(*row)
            foreign = session not in known or len(found[session]) >= self._bounds.waiting
            if one is None or len(one.message.payload) > room_bytes or foreign:
                self.left_out += 1
            else:
                room_bytes -= len(one.message.payload)
                found[session].append(one)
        return found

    def _ids(self, known: Container[int]) -> dict[int, set[int]]:
        found: defaultdict[int, set[int]] = defaultdict(set)
        columns = _SESSION, _INTEGER.format("packet_id")
        for session, packet_id in self._rows("broker_received", columns, "session, packet_id"):
            foreign = session not in known or len(found[session]) >= self._bounds.ids
            if packet_id is None or not 1 <= packet_id <= PACKET_ID_MAX or foreign:
                self.left_out += 1
            else:
                found[session].add(packet_id)
        return found

    def _rows(self, table: str, columns: tuple[str, ...], by: str) -> Iterator[tuple[Any, ...]]:
        yield from self._db.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {by}")


def _decoded(encoded: bytes | None) -> str | None:
    try:
        return None if encoded is None else encoded.decode()
    except UnicodeDecodeError:
        return None


def _message(
    encoded: bytes | None, payload: bytes | None, qos: int | None, *, retain: bool
) -> Message | None:
    topic = _decoded(encoded)
    if topic is None or topic_fault(topic) is not None or payload is None or qos not in _QOS:
        return None
    return Message(topic, payload, qos, retain)


def _waiting(number: int | None, received: int | None, retain: int | None, *row: Any) -> Waiting | None:
    message = _message(*row, retain=retain == 1)
    if message is None or not message.qos or number is None or not 0 <= number <= NUMBER_MAX:
        return None
    return Waiting(number, message, received == 1) if received in _FLAG and retain in _FLAG else None
