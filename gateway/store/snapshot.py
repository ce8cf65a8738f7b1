"""A consistent copy of a store into one file, beside a gateway that goes on writing. Worker thread.

A backup over a connection without a transaction begins anew with every commit of the writer: at 20
commits a second it never ends. Here the reading connection holds one snapshot from the first page
to the last, so the copy is the store of one instant, made in one pass. The writer only feels that
its log cannot be reset meanwhile, which is bounded too.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.errors import StoreError
from gateway.store.faults import store_error
from gateway.store.links import log_of
from gateway.store.migrations import check_usable, migrations, version_of
from gateway.store.opening import connect_readonly

STEP_PAGES = 256
"""256 pages × 4 KiB = 1 MiB between two pauses: 0.1 s of a card that writes 10 MB/s."""
PAUSE_S = 0.02
"""Rest after every step, in which the writer has card and interpreter to itself: at most 50 MB/s."""
SYNC_STEPS = 8
"""The copy is synced every 8 MiB. Left to the end, its dirty pages (up to a fifth of the memory)
would stand before the writer's next fsync all at once: tens of seconds of a card."""
LOG_BYTES_MAX = 256 * 1024 * 1024
"""Length of the store's log at which a copy gives up. Ingest writes about 0.1 MB/s into it (2 commits
a second), at worst 1 MB/s: a gigabyte copied at 10 MB/s adds 10 to 100 MB. More means that the
target hangs, and the store's own partition must not fill because of that."""


class Snapshot:
    """One instant of a store, held while the block runs.

    Attributes:
        size_bytes: what a copy of it takes.
    """

    def __init__(self, path: Path, timeout_s: float = 5.0) -> None:
        """Take the snapshot.

        Raises:
            StoreError: there is no store, or it cannot be read.
        """
        self.path = path
        if not path.exists():
            raise StoreError(f"{path}: there is no store", "start the gateway once, or check database.path")
        try:
            # Never path.open() here: closing any other descriptor of the file would drop the locks
            # that SQLite holds for a writer in this same process.
            self._db = connect_readonly(path, timeout_s)
            try:
                self._db.execute("BEGIN")
                self.version = _version(self._db, path)  # its first SELECT fixes the instant
                self.size_bytes = self._pragma("page_count") * self._pragma("page_size")
            except BaseException:  # closed, then raised again
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise store_error(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def copy_to(
        self,
        target: Path,
        *,
        look: Callable[[int, int], None] | None = None,
        log_bytes_max: int = LOG_BYTES_MAX,
        pause_s: float = PAUSE_S,
    ) -> None:
        """Write, sync and check the copy: one self-contained file that needs no log beside it.

        Args:
            target: is overwritten; removed again if anything goes wrong.
            look: called after every step with (pages left, pages in all); what it raises ends the copy.
            log_bytes_max: see LOG_BYTES_MAX.
            pause_s: rest after every step.

        Raises:
            StoreError: the target cannot be written, the log has grown too long, or the copy is not good.
        """
        remove_database(target)
        try:
            # Kept open to the end, see __init__.
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unwritable(target, str(error.strerror)) from error
        try:
            self._copy(target, descriptor, look, log_bytes_max, pause_s)
            _settle(target)
            os.fsync(descriptor)
            check_copy(target, self.version)
        except sqlite3.Error as error:
            remove_database(target)
            raise _unwritable(target, str(error)) from error
        except OSError as error:
            remove_database(target)
            raise _unwritable(target, str(error.strerror)) from error
        except BaseException:  # cleaned up, then raised again
            remove_database(target)
            raise
        finally:
            os.close(descriptor)

    def _copy(
        self,
        target: Path,
        descriptor: int,
        look: Callable[[int, int], None] | None,
        log_bytes_max: int,
        pause_s: float,
    ) -> None:
        log = log_of(self.path)
        steps = 0

        def after_step(_status: int, left: int, total: int) -> None:
            nonlocal steps
            steps += 1
            if steps % SYNC_STEPS == 0:
                os.fsync(descriptor)
            if look is not None:
                look(left, total)
            with contextlib.suppress(FileNotFoundError):
                if log.stat().st_size > log_bytes_max:
                    raise StoreError(
                        f"{target.parent}: too slow, the store's log has grown to more than"
                        f" {log_bytes_max} bytes while it was copied",
                        "choose a faster disk for the backups",
                    )
            time.sleep(pause_s)

        with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")  # a copy that fails is thrown away whole
            copy.execute("PRAGMA synchronous = OFF")  # synced here instead, in portions
            self._db.backup(copy, pages=STEP_PAGES, progress=after_step)

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])


def check_copy(path: Path, version: int) -> None:
    """Read a copy from end to end.

    Raises:
        StoreError: it is not a whole store of this version.
        sqlite3.Error: it cannot be read.
    """
    with contextlib.closing(connect_readonly(path, 5.0)) as db:
        found = _version(db, path)
        if found != version:
            raise StoreError(f"{path}: has store version {found}, not {version}")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(
                f"{path}: the copy is damaged, quick_check says: {' '.join(str(verdict).split())}",
                "look at the store itself: barn-gateway verify-store",
            )


def _version(db: sqlite3.Connection, path: Path) -> int:
    check_usable(db, path, len(migrations()))
    version = version_of(db)
    if not version:
        raise StoreError(f"{path}: is empty", "start the gateway once")
    return version


def remove_database(path: Path) -> None:
    """A file of ours that is not finished, and whatever SQLite has laid beside it."""
    for ending in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            path.with_name(path.name + ending).unlink()


def sync_directory(path: Path) -> None:
    """Names given in a directory survive a power cut from here on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot sync a directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle(path: Path) -> None:
    """The copied header says "write-ahead log", which would want a second file beside it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")


def _unwritable(target: Path, why: str) -> StoreError:
    return StoreError(
        f"{target.parent}: the copy cannot be written: {why}",
        "check its free space and its owner, or choose another directory",
    )
