"""What a SQLite fault means to the operator. Pure; runs in whatever thread met the fault."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.errors import StoreError

_HINTS = {
    sqlite3.SQLITE_FULL: "free space on the card; nothing is acknowledged until there is room",
    sqlite3.SQLITE_IOERR: "the card or its file system reports an error; check dmesg, replace the card",
    sqlite3.SQLITE_READONLY: "the file or its file system is read-only; check mount options and owner",
    sqlite3.SQLITE_BUSY: "another program holds the write lock; close it (a sqlite3 shell with BEGIN?)",
    sqlite3.SQLITE_CANTOPEN: "check that the directory exists and that the gateway's user may write it",
    sqlite3.SQLITE_PERM: "the gateway's user may not write the file; check its owner",
}
_DAMAGED = "the store is damaged: stop the gateway, move the file and its -wal aside, restore a backup"
_FAULTS_OF_CODE = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    sqlite3.NotSupportedError,
)


def is_store_fault(error: sqlite3.Error) -> bool:
    """Whether disk, file or lock is at fault, rather than the statement that was run."""
    return not isinstance(error, _FAULTS_OF_CODE)


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Keep SQLite's own sentence as the message (people grep for it); the hint names file and remedy."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return damaged(path, str(error))
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
        code = sqlite3.SQLITE_FULL  # how a full disk answers an opening that finds no room for the -shm
    remedy = _HINTS.get(code)
    return StoreError(str(error), f"{path}: {remedy}" if remedy else str(path))


def damaged(path: Path, why: str) -> StoreError:
    """A file that cannot be used as a store. It is left exactly as it is."""
    return StoreError(f"{path}: {why}", _DAMAGED)
