"""Open a damaged store for reading, without changing a byte of it. Runs in the thread that salvages.

SQLite refuses a file whose first page is gone, however good the rest is. Our own first page is
known, though: it is the one a new store has. So a log with that single page is laid over a second
name (a hard link) of the damaged file, and SQLite reads the rest through it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

from gateway.store.migrations import migrate, migrations
from gateway.store.opening import connect_readonly

PAGE_BYTES = 4096
"""SQLite's default since 3.12; our stores are never made with another."""

_HEADER_BYTES = 100
_WAL_HEADER_BYTES = 32
_WAL_FORMAT = 3_007_000
VIEW = ".view"
"""What the second name ends with."""


@contextlib.contextmanager
def damaged_store(bad: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, to what is left of a store; any thread may use it.

    Raises:
        sqlite3.Error: nothing in it can be read.
    """
    db = _open(bad)
    try:
        yield db
    finally:
        db.close()
        _remove_view(bad)


def _open(bad: Path) -> sqlite3.Connection:
    torn = _torn_page(bad)
    if bad.stat().st_size >= PAGE_BYTES:  # SQLite would delete the log of an empty file
        with contextlib.suppress(sqlite3.Error, OSError):
            return _usable(_view(bad, torn) if torn else bad)
    for first_page in _first_pages(bad):
        with contextlib.suppress(sqlite3.Error, OSError):
            return _usable(_view(bad, {**torn, 1: first_page}))
    _remove_view(bad)
    raise sqlite3.DatabaseError("no table of it can be found")


def _torn_page(bad: Path) -> dict[int, bytes]:
    """A last page that is cut off holds half a row; SQLite would fill it up with zeroes and read it."""
    whole, rest = divmod(bad.stat().st_size, PAGE_BYTES)
    return {whole + 1: bytes(PAGE_BYTES)} if rest and whole else {}


def _remove_view(bad: Path) -> None:
    for part in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            bad.with_name(bad.name + VIEW + part).unlink(missing_ok=True)


def _usable(path: Path) -> sqlite3.Connection:
    db = connect_readonly(path, timeout_s=0)
    try:
        db.text_factory = _text
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA writable_schema = ON")  # reads a file that is shorter than its header says
        _check_tables(db)
    except BaseException:  # closed, then raised again
        db.close()
        raise
    return db


def _check_tables(db: sqlite3.Connection) -> None:
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"meta", "animals", "hot"} <= tables:
        raise sqlite3.DatabaseError("its list of tables is not ours")


def _text(data: bytes) -> str | bytes:
    """Text that is none stays bytes, which no row of ours may hold: one row is refused, not the page."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _first_pages(bad: Path) -> Iterator[bytes]:
    """Likely first pages: the file's own under a good header, then those of new stores."""
    with bad.open("rb") as file:
        own = file.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")
    known = migrations()
    fresh = [_fresh_page(n, pointers) for n in range(len(known), 0, -1) for pointers in (True, False)]
    yield fresh[0][:_HEADER_BYTES] + own[_HEADER_BYTES:]
    yield from fresh


def _fresh_page(version: int, pointers: bool) -> bytes:  # noqa: FBT001 - an inner function's one switch
    """The first page of a new store of this version; migrations lay tables out the same way each time.

    Args:
        version: of the schema.
        pointers: as stores are made since version 2, with pages of pointers for giving room back.
    """
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        if pointers:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        migrate(db, migrations()[:version])
        page = bytearray(db.serialize()[:PAGE_BYTES])
    page[18:20] = b"\2\2"  # write-ahead log
    page[28:40] = bytes(12)  # as many pages as there are; no list of free ones
    return bytes(page)


def _view(bad: Path, pages: dict[int, bytes]) -> Path:
    """The damaged file under a second name, with a log of its own that holds these pages, too."""
    _remove_view(bad)
    view = bad.with_name(bad.name + VIEW)
    if bad.stat().st_size < PAGE_BYTES:
        view.write_bytes(bytes(PAGE_BYTES))
    else:
        os.link(bad, view)
    log = bytearray()
    with contextlib.suppress(FileNotFoundError):
        log = _committed(bad.with_name(bad.name + "-wal").read_bytes())
    count = max(1, -(-bad.stat().st_size // PAGE_BYTES))
    if log:
        sum_ = bytes(log[-PAGE_BYTES - 8 : -PAGE_BYTES])
        count = int.from_bytes(log[-PAGE_BYTES - 20 : -PAGE_BYTES - 16], "big")
    else:
        log += struct.pack(">6I", 0x377F0682, _WAL_FORMAT, PAGE_BYTES, 0, 1, 1)
        sum_ = _checksum(bytes(log), bytes(8))
        log += sum_
    order = ">" if log[3] & 1 else "<"
    for number, page in pages.items():
        if number != 1 and number in _logged(log):
            continue  # the log has it whole
        frame = struct.pack(">2I", number, count)
        sum_ = _checksum(frame + page, sum_, order)
        log += frame + log[16:24] + sum_ + page
    view.with_name(view.name + "-wal").write_bytes(log)
    return view


def _logged(log: bytearray) -> set[int]:
    """Numbers of the pages a log holds."""
    starts = range(_WAL_HEADER_BYTES, len(log), PAGE_BYTES + 24)
    return {int.from_bytes(log[at : at + 4], "big") for at in starts}


def _committed(log: bytes) -> bytearray:
    """The frames of a log up to its last commit, as far as its salts go; empty if it is none of ours."""
    step = PAGE_BYTES + 24
    if len(log) < _WAL_HEADER_BYTES + step or log[:3] != b"\x37\x7f\x06" or log[8:12] != b"\0\0\x10\0":
        return bytearray()
    end = _WAL_HEADER_BYTES
    for at in range(_WAL_HEADER_BYTES, len(log) - step + 1, step):
        if log[at + 8 : at + 16] != log[16:24]:
            break
        if any(log[at + 4 : at + 8]):
            end = at + step
    return bytearray(log[:end] if end > _WAL_HEADER_BYTES else b"")


def _checksum(data: bytes, before: bytes, order: str = "<") -> bytes:
    """SQLite's own: two running sums over pairs of 32-bit words (file format, section 4.2)."""
    one, two = struct.unpack(">2I", before)
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for x, y in zip(words[::2], words[1::2], strict=True):
        one = (one + x + two) & 0xFFFFFFFF
        two = (two + y + one) & 0xFFFFFFFF
    return struct.pack(">2I", one, two)
