"""Whose store this is. A function over a connection; store/renewal makes the ids."""

from __future__ import annotations

import sqlite3


def epoch(db: sqlite3.Connection) -> str:
    """Random, new with every new or restored store (decision 39)."""
    (value,) = db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return str(value)
