"""A store that cannot be used is set aside, never thrown away. Runs in the thread that opens the store.

`<name>.bad-<UTC time>` keeps file, log and index of a damaged store together, so that SQLite still
finds the log under the new name. `<name>.damaged` is the note that makes this safe at every moment:
a running gateway writes it when it meets damage, and while files are being moved it says where to,
so that a power cut in between is taken up at the next start.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.errors import StoreError
from gateway.store import meta
from gateway.store.damaged_file import VIEW, damaged_store
from gateway.store.faults import StoreDamagedError, damaged, file_error
from gateway.store.migrations import APPLICATION_ID
from gateway.store.opening import connect_readonly, is_new, probe
from gateway.store.writer_lock import WriterLock

BAD_SETS_MAX = 3
"""Damaged stores kept beside a store; the oldest go first, never one whose salvage is unfinished.
Each is as big as the store was when it broke, so the worst is 3 × the store: a year of 200 animals
is 1.3 GB, three broken ones 4 GB of a 32 GB card."""
SOURCES_MAX = BAD_SETS_MAX
"""Unfinished salvages a store remembers; a store that breaks again during one hands them on."""

LOG_GONE = "the gateway was cut off and the store's log is gone (deleted, or folded in by another program)"

_SALVAGE_KEY = "salvage"
_PARTS = ("-wal", "-shm", "")  # the file itself last: once it has moved, all have


class Recovery(msgspec.Struct, frozen=True):
    """What the opening of a store had to do.

    Args:
        why: what was wrong with it, one phrase.
        bad: the damaged file under its new name; None where the store was kept in place.
        gateway_id: read from the damaged file; None if it could not be.
        sources: names of all damaged files whose readings are still to be salvaged, newest first.
    """

    why: str
    bad: Path | None = None
    gateway_id: str | None = None
    sources: tuple[str, ...] = ()


class _Note(msgspec.Struct):
    """The content of `<name>.damaged`: what was met, in which store, and where it is being moved."""

    why: str
    epoch: str = ""
    bad: str = ""


def note_damage(path: Path, epoch: str, why: str) -> None:
    """Leave word that this store must not be opened again as it is. From a running gateway.

    A card that refuses even that is no reason to raise: the next start looks at the file itself.
    """
    with contextlib.suppress(OSError):
        _write_note(path, _Note(why=why, epoch=epoch))


def set_aside_if_damaged(path: Path, lock: WriterLock, timeout_s: float, now_ms: int) -> Recovery | None:
    """Make sure that what lies at `path` is a usable store of ours, or nothing.

    Returns:
        What had to be done; None usually.

    Raises:
        StoreUnavailableError: the card refuses to be read, or to move the damaged files.
        StoreError: evidently not ours (another program's database, or a file that is no
            database where no lock of ours lay); it is left alone.
    """
    log_gone = lock.log_expected and not _beside(path, "-wal").exists()  # a look at the store may make one
    note = _read_note(path)
    if note is None or not note.bad:
        try:
            _check(path, lock, note, timeout_s)
        except StoreDamagedError as error:
            note = _Note(why=error.message.removeprefix(f"{path}: "), bad=_bad_name(path, now_ms))
            with _refusals(path):
                _write_note(path, note)
        else:
            _note_path(path).unlink(missing_ok=True)  # of a store that has been replaced since
            return Recovery(LOG_GONE) if log_gone and not is_new(path) else None
    bad = path.with_name(note.bad)
    with _refusals(path):
        for part in _PARTS:
            if not bad.exists() and _beside(path, part).exists():
                _beside(path, part).rename(_beside(bad, part))
        bad.touch()  # where only the log was left
        _sync_directory(path.parent)
    gateway_id, before = _remembered(path, bad)
    return Recovery(note.why, bad, gateway_id, tuple(dict.fromkeys((bad.name, *before)))[:SOURCES_MAX])


def settled(path: Path) -> None:
    """The new store knows what is to be salvaged: the note has done its work."""
    with _refusals(path):
        _note_path(path).unlink(missing_ok=True)
        _sync_directory(path.parent)


def remember_sources(db: sqlite3.Connection, sources: tuple[str, ...]) -> None:
    """Write down which damaged files are still to be salvaged; none ends it. Inside a transaction."""
    if sources:
        text = msgspec.json.encode(sources).decode()
        meta.put(db, _SALVAGE_KEY, text)
    else:
        meta.remove(db, _SALVAGE_KEY)


def sources_of(db: sqlite3.Connection) -> tuple[str, ...]:
    """Names of the damaged files this store still has to salvage, newest first."""
    text = meta.get(db, _SALVAGE_KEY)
    return () if text is None else msgspec.json.decode(text, type=tuple[str, ...])


def prune(path: Path, unfinished: tuple[str, ...]) -> list[str]:
    """Remove the oldest damaged stores beyond BAD_SETS_MAX; returns their names. Blocking."""
    names = bad_names(path)
    gone = [name for name in names[BAD_SETS_MAX:] if name not in unfinished]
    with _refusals(path):
        for name in gone:
            for part in _PARTS:
                path.with_name(name + part).unlink(missing_ok=True)
    return gone


def bad_names(path: Path) -> list[str]:
    """Damaged stores kept beside this one, newest first."""
    found = path.parent.glob(f"{path.name}.bad-*")
    return sorted((f.name for f in found if not f.name.endswith(("-wal", "-shm", VIEW))), reverse=True)


def _check(path: Path, lock: WriterLock, note: _Note | None, timeout_s: float) -> None:
    """Raises StoreDamagedError where the files must be set aside, StoreError where they may not be."""
    log = _beside(path, "-wal")
    try:
        if note is not None and path.exists() and _same_store(path, note):
            raise damaged(path, note.why)
        if not is_new(path):
            probe(path, timeout_s)
        elif lock.was_here and log.exists() and log.stat().st_size:
            # SQLite would delete the log of a file that holds nothing.
            raise damaged(path, "is gone or empty, and its log is still there")
        elif path.exists() and lock.was_here and (lock.log_expected or not lock.crashed):
            raise damaged(path, "is empty")
    except StoreDamagedError as error:
        if not lock.was_here and not _is_ours(path):
            raise StoreError(
                error.message, "no gateway has used this path before: is database.path right? move the file"
            ) from error
        raise


def _same_store(path: Path, note: _Note) -> bool:
    """Whether the note speaks of this file; one that cannot be read is taken for the same."""
    if not note.epoch:
        return True
    try:
        with contextlib.closing(connect_readonly(path, timeout_s=0)) as db:
            epoch = meta.get(db, "epoch")
    except sqlite3.Error:
        return True
    return epoch in {None, note.epoch}


def _is_ours(path: Path) -> bool:
    """By the header's own bytes: SQLite may be unable to open what is left."""
    try:
        with path.open("rb") as file:
            head = file.read(72)
    except OSError:
        return False
    return head.startswith(b"SQLite format 3") and head[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _remembered(path: Path, bad: Path) -> tuple[str | None, tuple[str, ...]]:
    """The damaged store's gateway_id, and the salvages it had not finished itself.

    Where that cannot be read, every damaged store kept beside is salvaged (again): it costs time only.
    """
    known: dict[str, object] = {}
    with contextlib.suppress(sqlite3.Error), damaged_store(bad) as db:
        known.update(db.execute("SELECT key, value FROM meta WHERE key IN ('gateway_id', 'salvage')"))
    gateway_id = known.get("gateway_id")
    if not isinstance(gateway_id, str) or not gateway_id.isprintable() or not 0 < len(gateway_id) <= 64:
        return None, tuple(bad_names(path))
    try:
        return gateway_id, msgspec.json.decode(str(known.get(_SALVAGE_KEY, "[]")), type=tuple[str, ...])
    except msgspec.DecodeError:
        return gateway_id, tuple(bad_names(path))


def _bad_name(path: Path, now_ms: int) -> str:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ms / 1000))
    name, n = f"{path.name}.bad-{stamp}", 1
    while any(path.with_name((bad := name if n == 1 else f"{name}-{n}") + part).exists() for part in _PARTS):
        n += 1  # a Pi without a clock can meet the same second twice
    return bad


def _beside(path: Path, part: str) -> Path:
    return path.with_name(path.name + part)


def _note_path(path: Path) -> Path:
    return _beside(path, ".damaged")


def _read_note(path: Path) -> _Note | None:
    try:
        return msgspec.json.decode(_note_path(path).read_bytes(), type=_Note)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        return _Note("was found damaged while it was in use")
    except OSError as error:
        raise file_error(_note_path(path), error, "check the card and the file's owner") from error


def _write_note(path: Path, note: _Note) -> None:
    temp = _beside(path, ".damaged.tmp")
    with temp.open("wb") as file:
        file.write(msgspec.json.encode(note))
        file.flush()
        os.fsync(file.fileno())
    temp.replace(_note_path(path))
    _sync_directory(path.parent)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """A card that refuses to move a file is a fault of the card."""
    try:
        yield
    except OSError as error:
        raise file_error(path, error, "the damaged store cannot be set aside; check the card") from error


def _sync_directory(path: Path) -> None:
    """A rename must survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
