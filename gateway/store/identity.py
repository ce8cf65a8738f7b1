"""Which of its lives a store is in (decision 39). Functions over a connection."""

from __future__ import annotations

import secrets
import sqlite3

from gateway.store import meta


def epoch(db: sqlite3.Connection) -> str:
    """Random, new with every new, salvaged or restored store."""
    return str(meta.get(db, "epoch"))


def renew_epoch(db: sqlite3.Connection) -> str:
    """Begin a new one; returns it."""
    made = secrets.token_hex(6)
    meta.put(db, "epoch", made)
    return made
