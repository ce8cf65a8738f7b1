"""Silences: functions over a connection. `save` writes; the caller adds the outbox row in the same work."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from gateway.core.silences import Silence
from gateway.errors import StoreError

COLUMNS = "subject, kind, from_ms, until_ms, who, origin, reason, ended_ms, ended_by"
_SELECT = f"SELECT id, {COLUMNS} FROM silences"


def save(db: sqlite3.Connection, silence: Silence) -> Silence:
    """Insert a silence (id 0) or update it.

    Returns:
        The silence with its row number.

    Raises:
        StoreError: an id that is not in the store.
    """
    values = msgspec.structs.astuple(silence)[1:]
    marks = ", ".join("?" * len(values))
    if silence.id == 0:
        row = db.execute(f"INSERT INTO silences ({COLUMNS}) VALUES ({marks}) RETURNING id", values).fetchone()
        return msgspec.structs.replace(silence, id=int(row[0]))
    if not db.execute(
        f"UPDATE silences SET ({COLUMNS}) = ({marks}) WHERE id = ?", (*values, silence.id)
    ).rowcount:
        raise StoreError(f"silence {silence.id} is not in the store")
    return silence


def holding(db: sqlite3.Connection) -> list[Silence]:
    """Silences whose end nobody has acted on yet, in the order they were set."""
    return [decode(row) for row in db.execute(f"{_SELECT} WHERE ended_ms IS NULL ORDER BY id")]


def recent(db: sqlite3.Connection, limit: int) -> list[Silence]:
    """All silences, the last set first."""
    return [decode(row) for row in db.execute(f"{_SELECT} ORDER BY id DESC LIMIT ?", (limit,))]


def decode(row: tuple[Any, ...]) -> Silence:
    """A row (id and the columns in their order) as a silence."""
    return Silence(*row)
