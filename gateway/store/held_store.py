"""One state of the store, held for several pieces of work. Used and closed from any thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gateway.errors import StoreError
from gateway.store.chunks import ChunkError
from gateway.store.faults import is_store_fault

T = TypeVar("T")


class HeldStore:
    """One state of the store, whatever is committed meanwhile; used and closed from any thread.

    Args:
        path: the store's, for errors.
        db: a reader outside of any transaction.
        give_back: takes it again.
        fault: the error to tell for one of SQLite's.
        damaged: told of a packed hour that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        db: sqlite3.Connection,
        give_back: Callable[[sqlite3.Connection], None],
        fault: Callable[[sqlite3.Error], StoreError],
        damaged: Callable[[ChunkError], None],
    ) -> None:
        self._path = path
        self._damaged = damaged
        self._db: sqlite3.Connection | None = db
        self._give_back = give_back
        self._fault = fault
        self._reading = threading.Lock()
        db.execute("BEGIN")
        try:
            db.execute("SELECT value FROM meta LIMIT 1").fetchone()  # the first read fixes the state
        except BaseException:  # ended, then raised again
            db.execute("ROLLBACK")
            raise

    @property
    def closed(self) -> bool:
        """Whether it has been let go."""
        return self._db is None

    def read_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` over it, in the caller's thread.

        Raises:
            StoreError: the file cannot be read, or the snapshot has been closed.
        """
        with self._reading:
            if self._db is None:
                raise StoreError(f"{self._path}: this snapshot is closed")
            try:
                return work(self._db)
            except ChunkError as error:
                self._damaged(error)
                raise
            except sqlite3.Error as error:
                if not is_store_fault(error):
                    raise
                raise self._fault(error) from error

    def close(self) -> None:
        """Wait for a piece of work that runs, then let go. Idempotent."""
        with self._reading:
            db, self._db = self._db, None
            if db is not None:
                try:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                finally:
                    self._give_back(db)
