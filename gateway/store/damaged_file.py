"""Open a damaged store for reading, without changing a byte of it. Runs in the thread that salvages.

SQLite refuses a file whose first page or list of tables is gone, however good the rest is. Ours are
known, though: they are those of a new store. So a log with these pages is laid over a second name (a
hard link) of the damaged file, and SQLite reads the rest through it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

from gateway.store.migrations import Migration, migrate, migrations
from gateway.store.opening import connect_readonly

PAGE_BYTES = 4096
"""SQLite's default since 3.12; our stores are never made with another."""

_HEADER_BYTES = 100
_INTERIOR_PAGE = 5
_TOLD_BY = ("meta", "animals", "hot")
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
    for pages in _lists_of_tables(bad):
        with contextlib.suppress(sqlite3.Error, OSError):
            return _usable(_view(bad, {**torn, **pages}))
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
    """The list of tables is ours, and leads to something: at least one of these can be read."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables.issuperset(_TOLD_BY):
        raise sqlite3.DatabaseError("its list of tables is not ours")
    for table in _TOLD_BY:
        with contextlib.suppress(sqlite3.DatabaseError):
            if db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone() is not None:
                return
    raise sqlite3.DatabaseError("nothing in its tables can be read")


def _text(data: bytes) -> str | bytes:
    """Text that is none stays bytes, which no row of ours may hold: one row is refused, not the page."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _lists_of_tables(bad: Path) -> Iterator[dict[int, bytes]]:
    """What may stand in the way, replaced: the header, the first page, the whole list of tables.

    Migrations lay out the same tables on the same pages in every new store.
    """
    with bad.open("rb") as file:
        own = file.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")
    known = migrations()
    fresh = [_fresh_pages(known[:n], pointers=how) for n in range(len(known), 0, -1) for how in (True, False)]
    yield {1: fresh[0][1][:_HEADER_BYTES] + own[_HEADER_BYTES:]}
    yield from ({1: pages[1]} for pages in fresh)
    yield from fresh


def _fresh_pages(known: tuple[Migration, ...], *, pointers: bool) -> dict[int, bytes]:
    """The pages of a new store's list of tables.

    Args:
        known: its schema.
        pointers: as stores are made since version 2, with pages of pointers for giving room back.
    """
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        if pointers:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        migrate(db, known)
        data = db.serialize()
    first = bytearray(data[:PAGE_BYTES])
    first[18:20] = b"\2\2"  # write-ahead log
    first[28:40] = bytes(12)  # as many pages as there are; no list of free ones
    pages = {1: bytes(first)}
    if first[_HEADER_BYTES] == _INTERIOR_PAGE:
        cells = int.from_bytes(first[_HEADER_BYTES + 3 : _HEADER_BYTES + 5], "big")
        pointer_at = [_HEADER_BYTES + 12 + 2 * n for n in range(cells)]
        cell_at = [int.from_bytes(first[at : at + 2], "big") for at in pointer_at] + [_HEADER_BYTES + 8]
        for child in (int.from_bytes(first[at : at + 4], "big") for at in cell_at):
            pages[child] = data[(child - 1) * PAGE_BYTES : child * PAGE_BYTES]
    return pages


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
    count = max(count, *pages)
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
