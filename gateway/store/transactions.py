"""Where transactions begin and end. Functions over a connection in autocommit; any thread.

Migrations are the one exception: a schema file is a script with its own BEGIN and COMMIT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """What the block writes is on disk when it has ended well, and was never there otherwise.

    Raises:
        sqlite3.Error: disk, file or lock refuses.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:  # SQLite has rolled back itself after some errors
            db.execute("ROLLBACK")


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """What the block reads is one state of the store; inside another one, or a transaction, that one's.

    Ended soon, so that the log of whoever writes can be reset.
    """
    outermost = not db.in_transaction
    if outermost:
        db.execute("BEGIN")
    try:
        yield
    finally:
        if outermost and db.in_transaction:
            db.execute("ROLLBACK")
