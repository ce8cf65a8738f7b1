"""The table `meta`: single values of a store by key. Functions over a connection."""

from __future__ import annotations

import sqlite3
from typing import Any


def get(db: sqlite3.Connection, key: str) -> Any:
    """A value, as SQLite has it; None without one."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def put(db: sqlite3.Connection, key: str, value: str | int) -> None:
    """Set a value."""
    db.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def add(db: sqlite3.Connection, key: str, n: int) -> int:
    """Add to a number, 0 without one; returns the sum."""
    (total,) = db.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = value + excluded.value RETURNING value",
        (key, n),
    ).fetchone()
    return int(total)


def raise_to(db: sqlite3.Connection, key: str, value: int) -> None:
    """Set a number, unless it is higher already."""
    db.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
        (key, value),
    )


def remove(db: sqlite3.Connection, key: str) -> None:
    """Take a value out, if there is one."""
    db.execute("DELETE FROM meta WHERE key = ?", (key,))
