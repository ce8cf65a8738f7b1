"""What a SQLite or file fault means to the operator, and what the gateway may do about it.

Pure but for a look at the directory; runs in whatever thread met the fault. Three kinds of fault:
the file is damaged (set aside, salvaged), it cannot be used for now (degraded, tried again), and
everything else (a matter of configuration: told, exit code 2).
"""

from __future__ import annotations

import errno
import os
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
_DAMAGED = "the store is damaged: the next start of the gateway sets it aside and salvages what it can"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PASSES = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_OF_THE_FILE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_CARD_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_FAULTS_OF_CODE = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    sqlite3.NotSupportedError,
)


class StoreDamagedError(StoreError):
    """The file is ours and its content cannot be used as it is: set it aside and salvage it."""


class StoreUnavailableError(StoreError):
    """Card full, read-only, failing or locked: nothing is wrong with the file; try again later."""


def is_store_fault(error: sqlite3.Error) -> bool:
    """Whether disk, file or lock is at fault, rather than the statement that was run."""
    return not isinstance(error, _FAULTS_OF_CODE)


def is_damage(error: BaseException) -> bool:
    """Whether SQLite met content that no store can have."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """Keep SQLite's own sentence as the message (people grep for it); the hint names file and remedy."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code in _DAMAGE:
        return damaged(path, str(error))
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
        code = sqlite3.SQLITE_FULL  # how a full disk answers an opening that finds no room for the -shm
    remedy = _HINTS.get(code)
    passes = code in _PASSES or (code in _OF_THE_FILE and _may_be_written(path))
    kind = StoreUnavailableError if passes else StoreError
    return kind(str(error), f"{path}: {remedy}" if remedy else str(path))


def file_error(path: Path, error: OSError, hint: str) -> StoreError:
    """A file operation that the system refused; a full, read-only or failing card may recover."""
    kind = StoreUnavailableError if error.errno in _CARD_ERRNOS else StoreError
    return kind(f"{path}: {error.strerror}", hint)


def damaged(path: Path, why: str) -> StoreDamagedError:
    """A file that cannot be used as a store. Whoever only reads leaves it exactly as it is."""
    return StoreDamagedError(f"{path}: {why}", _DAMAGED)


def _may_be_written(path: Path) -> bool:
    """Whether owner and mode allow writing, so that a refusal comes from the card.

    A read-only file system refuses like a missing permission does; only the first may pass.
    """
    try:
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            return True
    except OSError:
        return True  # a card that does not even answer that
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
