"""Everything between a path and a usable connection: lock, probe, pragmas. Runs in the opening thread.

A file that cannot be used is never deleted, truncated or checkpointed: it is looked at read-only
first, and only a good one is opened for writing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

from gateway.errors import StoreError
from gateway.store.faults import damaged, store_error
from gateway.store.migrations import check_usable, migrations, version_of

if sys.platform != "win32":
    import fcntl

WAL_AUTOCHECKPOINT_PAGES = 1000
"""A checkpoint every 1000 pages × 4 KiB = 4 MiB of log: about 0.4 s of an SD card at 10 MB/s, on the
writer's connection. The log's size is thus 4 MiB plus one batch (512 readings: < 0.2 MiB); only a
reader that holds its snapshot open can stretch it."""
WAL_BYTES_MAX = 16 * 1024 * 1024
"""What is left of a log that a slow reader had stretched, after the next checkpoint."""
CHECK_BYTES_MAX = 16 * 1024 * 1024
"""A store up to this size is checked whole when it is opened (16 MiB: < 0.5 s even from an SD card);
of a bigger one only the edges of its tables are read, so that opening stays cheap."""

_MAGIC = b"SQLite format 3\x00"
_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_EDGES = (  # one aggregate each: min and max together would read the whole table
    "SELECT max(ts_ms) FROM hot",
    "SELECT max(id) FROM animals",
    "SELECT max(hour) FROM dirty",
    "SELECT max(id) FROM alert_episodes",
    "SELECT max(seq) FROM events",
    "SELECT max(id) FROM dead_letters",
)


class WriterLock:
    """Advisory lock on `<path>.lock`: one gateway writes a store. Freed by the kernel when we die."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreError: another process (or this one) has the store open, or the directory
                cannot be written.
        """
        lock_path = path.with_name(path.name + ".lock")
        try:
            self._fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"{lock_path}: {error.strerror}", "the gateway's user must be able to write the directory"
            ) from error
        try:
            if sys.platform != "win32":
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreError(
                f"{path}: already in use by another gateway (pid {holder})",
                "stop it first, or give this one its own database.path",
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the pid is missing
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Free the lock. The file stays: deleting it would race with the next gateway."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def make_directory(path: Path) -> None:
    """Create the store's directory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path.parent}: cannot be created: {error.strerror}", "check database.path"
        ) from error


def is_new(path: Path) -> bool:
    """No file, or an empty one (power failed in the first moment of the first boot).

    Raises:
        StoreError: the path cannot be read or holds something else than a database.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read: {error.strerror}", "check database.path and the file's owner"
        ) from error
    if head and head != _MAGIC:
        raise damaged(path, "file is not a database")
    return not head


def probe(path: Path, timeout_s: float) -> None:
    """Look at an existing store without touching it.

    Raises:
        StoreError: damaged, of another program or of a newer gateway.
    """
    _check_size(path)
    try:
        with contextlib.closing(connect_readonly(path, timeout_s)) as db:
            check_usable(db, path, len(migrations()))
            if path.stat().st_size <= CHECK_BYTES_MAX:
                (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise damaged(path, f"quick_check says: {' '.join(str(verdict).split())}")
            elif version_of(db):
                for edge in _EDGES:
                    db.execute(edge).fetchone()
    except sqlite3.Error as error:
        raise store_error(path, error) from error


def connect_readonly(path: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection that cannot write. Raises sqlite3.Error."""
    # resolve(): as_uri() wants an absolute path, and quotes '?' and '#' in file names.
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,  # borrowed by one thread at a time
    )


def connect_writer(path: Path, timeout_s: float) -> sqlite3.Connection:
    """The one writing connection. Raises sqlite3.Error, or StoreError where WAL is impossible."""
    db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        # Only a new file takes it up: free pages can be given back a few at a time, without VACUUM.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _set_wal(db, path)
        # FULL: NORMAL lost acknowledged rows in 25 of 30 power cuts (DESIGN, "Store layout").
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_AUTOCHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA secure_delete = OFF")  # some builds zero deleted pages: wear for nothing
    except BaseException:  # closed, then raised again
        db.close()
        raise
    return db


def _set_wal(db: sqlite3.Connection, path: Path) -> None:
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(
            f"{path}: its file system cannot hold a write-ahead log (mode {mode!r})",
            "keep the store on a local disk",
        )


def _check_size(path: Path) -> None:
    """A torn last page, which SQLite would quietly fill with zeroes."""
    try:
        with path.open("rb") as file:
            page_size = int.from_bytes(file.read(18)[16:18], "big")
        page_size = 65536 if page_size == 1 else page_size  # the header's way to write it
        torn = page_size and path.stat().st_size % page_size
        # A power cut in a checkpoint tears a page too; then the log still holds it whole.
        with path.with_name(path.name + "-wal").open("rb") as log:
            torn = torn and log.read(4) not in _WAL_MAGIC
    except FileNotFoundError:  # no log
        pass
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read: {error.strerror}", "check the file and its owner"
        ) from error
    if torn:
        raise damaged(path, "is cut off in the middle of a page")
