"""Alert episodes and their history: functions over a connection. `save` writes.

The caller puts `save` and the outbox row into one piece of work: one transaction (decision 28).
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from gateway.core.alerts import Alert, State
from gateway.core.findings import Evidence
from gateway.core.severity import Severity
from gateway.errors import StoreError

COLUMNS = (
    "subject, kind, episode, severity, state, onset_ms, last_seen_ms, raised_ms, changed_ms, "
    "confidence, sentence, evidence, detail, clear_n, late, ended_ms, told_ms, reminders, folded_into"
)
COLUMNS_OF_PEOPLE = 3
"""How many of the last ones came with store version 4."""
_SELECT = f"SELECT id, {COLUMNS} FROM alert_episodes"
_MARKS = ", ".join("?" * (COLUMNS.count(",") + 1))


class Transition(msgspec.Struct, frozen=True):
    """One step of an alert's life: when, what, who and why (decision 17).

    Args:
        at_ms: the gateway's clock, UTC epoch milliseconds.
        from_state: empty for the first step.
        to_state: may equal `from_state` (an escalation).
        severity: after the step.
        who: a person's or device's name; "gateway" when automatic.
        origin: "automatic", "button", "web", "cli" or "mqtt".
        reason: why, in words.
    """

    at_ms: int
    from_state: str
    to_state: str
    severity: Severity
    who: str
    origin: str
    reason: str


def save(db: sqlite3.Connection, alert: Alert, transition: Transition | None) -> Alert:
    """Insert an alert (id 0) or update it; with a transition, add that to its history.

    Returns:
        The alert with its row number.

    Raises:
        StoreError: an id that is not in the store.
        sqlite3.IntegrityError: a second row for the same subject, kind and episode.
    """
    values = (
        alert.subject,
        alert.kind,
        alert.episode,
        int(alert.severity),
        alert.state.value,
        alert.onset_ms,
        alert.last_seen_ms,
        alert.raised_ms,
        alert.changed_ms,
        alert.confidence,
        alert.sentence,
        msgspec.json.encode(alert.evidence).decode(),
        alert.detail,
        alert.clear_n,
        int(alert.late),
        alert.ended_ms,
        alert.told_ms,
        alert.reminders,
        alert.folded_into,
    )
    if alert.id == 0:
        row = db.execute(
            f"INSERT INTO alert_episodes ({COLUMNS}) VALUES ({_MARKS}) RETURNING id", values
        ).fetchone()
        alert = msgspec.structs.replace(alert, id=int(row[0]))
    elif not db.execute(
        f"UPDATE alert_episodes SET ({COLUMNS}) = ({_MARKS}) WHERE id = ?", (*values, alert.id)
    ).rowcount:
        raise StoreError(f"alert {alert.id} is not in the store")
    if transition is not None:
        db.execute(
            "INSERT INTO alert_history"
            " (alert_id, at_ms, from_state, to_state, severity, who, origin, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (alert.id, *msgspec.structs.astuple(transition)),
        )
    return alert


def open_alerts(db: sqlite3.Connection) -> list[Alert]:
    """Active and acknowledged alerts in the order they were raised."""
    rows = db.execute(f"{_SELECT} WHERE state IN ('active', 'acknowledged') ORDER BY id")
    return [decode(row) for row in rows]


def latest_episodes(db: sqlite3.Connection) -> list[Alert]:
    """The newest episode of every (subject, kind): what a restart needs for dedup and cooldown."""
    rows = db.execute(
        f"{_SELECT} AS a WHERE episode = (SELECT max(b.episode) FROM alert_episodes b"
        " WHERE b.subject = a.subject AND b.kind = a.kind) ORDER BY id"
    )
    return [decode(row) for row in rows]


def recent(db: sqlite3.Connection, subject: str | None, limit: int) -> list[Alert]:
    """Alerts of one subject or of all (None), the last raised first."""
    if subject is None:
        rows = db.execute(f"{_SELECT} ORDER BY id DESC LIMIT ?", (limit,))
    else:
        rows = db.execute(f"{_SELECT} WHERE subject = ? ORDER BY id DESC LIMIT ?", (subject, limit))
    return [decode(row) for row in rows]


def seen_since(db: sqlite3.Connection, from_ms: int) -> list[Alert]:
    """Every episode, open or ended, that was judged at or after this data time."""
    rows = db.execute(f"{_SELECT} WHERE last_seen_ms >= ? ORDER BY id", (from_ms,))
    return [decode(row) for row in rows]


def history(db: sqlite3.Connection, alert_id: int) -> list[Transition]:
    """An alert's steps in the order they were taken."""
    rows = db.execute(
        "SELECT at_ms, from_state, to_state, severity, who, origin, reason"
        " FROM alert_history WHERE alert_id = ? ORDER BY id",
        (alert_id,),
    )
    return [
        Transition(
            at_ms=at_ms,
            from_state=from_state,
            to_state=to_state,
            severity=Severity(severity),
            who=who,
            origin=origin,
            reason=reason,
        )
        for at_ms, from_state, to_state, severity, who, origin, reason in rows
    ]


def decode(row: tuple[Any, ...]) -> Alert:
    """A row (id and the columns in their order) as an alert; of an earlier version without the last ones.

    Raises:
        ValueError: a state, severity or evidence that no alert has (damage).
        msgspec.ValidationError: likewise.
    """
    told_ms, reminders, folded_into = row[17:] or (0, 0, "")
    return Alert(
        id=row[0],
        subject=row[1],
        kind=row[2],
        episode=row[3],
        severity=Severity(row[4]),
        state=State(row[5]),
        onset_ms=row[6],
        last_seen_ms=row[7],
        raised_ms=row[8],
        changed_ms=row[9],
        confidence=row[10],
        sentence=row[11],
        evidence=msgspec.json.decode(row[12], type=Evidence),
        detail=row[13],
        clear_n=row[14],
        late=bool(row[15]),
        ended_ms=row[16],
        told_ms=told_ms,
        reminders=reminders,
        folded_into=folded_into,
    )
