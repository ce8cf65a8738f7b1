"""Everything between a path and a usable connection: probe and pragmas. Runs in the opening thread.

A file that cannot be used is never deleted, truncated or checkpointed: it is looked at read-only
first, and only a good one is opened for writing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from gateway.errors import StoreError
from gateway.store.faults import damaged, file_error, is_store_fault, store_error
from gateway.store.links import log_of
from gateway.store.migrations import check_usable, migrations, version_of

WAL_AUTOCHECKPOINT_PAGES = 1000
"""A checkpoint every 1000 pages × 4 KiB = 4 MiB of log: about 0.4 s of an SD card at 10 MB/s, on the
writer's connection. The log's size is thus 4 MiB plus one batch (512 readings: < 0.2 MiB); only a
reader that holds its snapshot open can stretch it."""
WAL_BYTES_MAX = 16 * 1024 * 1024
"""What is left of a log that a slow reader had stretched, after the next checkpoint."""
READER_CACHE_KIB = 1024
"""Pages a reader keeps: the upper levels of every table; a long question passes over the rest once."""
CHECK_BYTES_MAX = 16 * 1024 * 1024
"""A store up to this size is checked whole when it is opened (16 MiB: < 0.5 s even from an SD card);
of a bigger one only the edges of its tables are read, so that opening stays cheap."""
BESIDE_S_MAX = 5.0
"""What a command waits for a lock of whoever has the store open; `database.timeout` is the gateway's own."""

_MAGIC = b"SQLite format 3\x00"
_FORMAT_MAX = 2  # bytes 18 and 19 of the header: 1 = rollback journal, 2 = write-ahead log
_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_EDGES = (  # one aggregate each: min and max together would read the whole table
    "SELECT max(id) FROM animals",
    "SELECT max(id) FROM alert_episodes",
    "SELECT max(seq) FROM events",
    "SELECT max(id) FROM dead_letters",
)
_EDGES_SINCE = {  # version → what it brought
    1: ("SELECT max(ts_ms) FROM hot", "SELECT max(hour) FROM dirty"),
    2: (
        "SELECT max(key) FROM hot_readings",
        "SELECT max(hour) FROM undelivered",
        "SELECT max(arrival_hour) FROM arrived",
        "SELECT max(slice) FROM chunks",
        "SELECT max(day_animal) FROM rollups",
    ),
    3: ("SELECT max(id) FROM broker_sessions", "SELECT max(id) FROM broker_retained"),
    4: ("SELECT max(id) FROM silences", "SELECT max(id) FROM notices"),
}


def make_directory(path: Path) -> None:
    """Create the store's directory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(path.parent, error, "cannot be created; check database.path") from error


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
        raise file_error(path, error, "cannot be read; check database.path and the file's owner") from error
    if head and head != _MAGIC:
        raise damaged(path, "file is not a database")
    return not head


def probe(path: Path, timeout_s: float) -> None:
    """Look at an existing store without touching it.

    Raises:
        StoreDamagedError: damaged, or of a newer gateway whose layout this code cannot use.
        StoreUnavailableError: it cannot be read for now.
        StoreError: of another program.
    """
    _check_header(path)
    try:
        with contextlib.closing(connect_readonly(path, timeout_s)) as db:
            check_usable(db, path, len(migrations()))
            _check_version(db, path)
            if path.stat().st_size <= CHECK_BYTES_MAX:
                (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise damaged(path, f"quick_check says: {' '.join(str(verdict).split())}")
            elif version_of(db):
                since = (edges for version, edges in _EDGES_SINCE.items() if version <= version_of(db))
                for edge in chain(_EDGES, *since):
                    db.execute(edge).fetchone()
    except sqlite3.Error as error:
        # These statements are right: a table that is missing or text that is none is damage.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise damaged(path, str(error)) from error
        raise store_error(path, error) from error


def connect_readonly(path: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection that cannot write, whatever is in the file. Raises sqlite3.Error."""
    # resolve(): as_uri() wants an absolute path, and quotes '?' and '#' in file names.
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,  # borrowed by one thread at a time
    )


def connect_reader(path: Path, timeout_s: float) -> sqlite3.Connection:
    """The same for questions to a good store. Raises sqlite3.Error."""
    db = connect_readonly(path, timeout_s)
    try:
        db.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    except BaseException:  # closed, then raised again
        db.close()
        raise
    return db


@contextlib.contextmanager
def open_readonly(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection beside a running gateway, or to a resting store, for as long as the block runs.

    Raises:
        StoreError: missing, empty, damaged, of an earlier version, or no store at all; also what the
            block meets while it reads.
    """
    if is_new(path):
        raise StoreError(f"{path}: there is no store", "start the gateway once, or check database.path")
    probe(path, BESIDE_S_MAX)
    try:
        with contextlib.closing(connect_reader(path, BESIDE_S_MAX)) as db:
            if version_of(db) < len(migrations()):
                raise StoreError(
                    f"{path}: was written by an earlier gateway (store version {version_of(db)})",
                    "start the gateway once, it brings the store up to date; a backup is restored first",
                )
            yield db
    except sqlite3.Error as error:
        if not is_store_fault(error):
            raise
        raise store_error(path, error) from error


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


def _check_header(path: Path) -> None:
    """What SQLite would quietly take: a torn last page filled with zeroes, a format it may not write."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
        page_size = int.from_bytes(head[16:18], "big")
        page_size = 65536 if page_size == 1 else page_size  # the header's way to write it
        torn = page_size and path.stat().st_size % page_size
        if max(head[18:20], default=0) > _FORMAT_MAX:
            raise damaged(path, "has a file format that no SQLite writes")
        # A power cut in a checkpoint tears a page too; then the log still holds it whole.
        with log_of(path).open("rb") as log:
            torn = torn and log.read(4) not in _WAL_MAGIC
    except FileNotFoundError:  # no log
        pass
    except OSError as error:
        raise file_error(path, error, "cannot be read; check the file and its owner") from error
    if torn:
        raise damaged(path, "is cut off in the middle of a page")


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    """The version in the header and the one the migrations noted must be the same."""
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    version = version_of(db)
    if not tables:
        if version:
            raise damaged(path, f"says version {version} and holds no table")
        return
    (noted,) = db.execute("SELECT max(version) FROM schema_versions").fetchone()
    if noted != version:
        raise damaged(path, f"says version {version}, its tables are of version {noted}")
