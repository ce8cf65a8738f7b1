"""Which animals the store has readings of."""

from __future__ import annotations

import sqlite3


def cow_ids(db: sqlite3.Connection) -> list[str]:
    """Every animal ever stored, at most as many as ingest admits (decision 9)."""
    return [cow_id for (cow_id,) in db.execute("SELECT cow_id FROM animals ORDER BY cow_id")]
