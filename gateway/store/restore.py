"""A backup in the place of the store (decisions 31 and 39). Main thread of a command; no gateway runs.

Nothing is deleted: the store before lies beside as `<name>.before-restore-<time>`. The new file is made
whole under another name and takes its place in one rename, after the log of the old one has been
folded into it: whenever the power fails, there is one whole store under the name, old or new.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec

from gateway.core.backups import farm_beside
from gateway.errors import ChecksFailedError, StoreError
from gateway.store import newest
from gateway.store.backup import ROOM_RESERVE_BYTES, give_to, read_register, write_whole
from gateway.store.broker_state import forget_received_ids
from gateway.store.faults import store_error
from gateway.store.identity import renew_epoch
from gateway.store.integrity import verify
from gateway.store.links import followed
from gateway.store.migrations import migrate, migrations
from gateway.store.opening import is_new, make_directory, probe
from gateway.store.snapshot import Snapshot, remove_database, sync_directory
from gateway.store.takeover import take_over
from gateway.store.writer_lock import WriterLock

RESTORING = ".restoring"
"""Ends the name of the new store until it is whole."""
ASIDE = ".before-restore-"

READERS_WAIT_S = 5.0
"""How long a program that reads the store gets to finish before it is named."""

_LEFT_ALONE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR})


class Restored(msgspec.Struct, frozen=True):
    """What a restore did.

    Args:
        readings_n: readings in the store now.
        newest_ms: instant of the newest of them, UTC epoch ms; None without any.
        epoch: the new one.
        aside: where the store before lies; None if there was none.
        farm: the farm register that was restored; None if the present one stays.
        farm_aside: where the register before lies; None if there was none, or it stays.
    """

    readings_n: int
    newest_ms: int | None
    epoch: str
    aside: Path | None
    farm: Path | None
    farm_aside: Path | None


def restore(
    source: Path,
    store: Path,
    farm: Path,
    now_local: datetime,
    *,
    farm_source: Path | None = None,
    say: Callable[[str], None] = lambda _step: None,
) -> Restored:
    """Check a backup and make it the store.

    Args:
        source: the backup; it is only read.
        store: the store's file, or a link to it, which stays one; a missing file is a new card.
        farm: the same of the farm register.
        now_local: the site's wall time, names what is put aside.
        farm_source: the register to restore; None = the one of the same stamp beside `source`,
            if there is one.
        say: told every step before it is taken.

    Raises:
        StoreError: a gateway runs, a file is missing, no room, or a disk refuses. Up to the
            last step the store is as before.
        ChecksFailedError: the backup is not good; nothing was changed.
    """
    make_directory(store)
    store, farm = followed(store), followed(farm)
    lock = _stopped(store)
    try:
        say(f"checking {source}")
        text, farm_source = _check(source, store, farm_source)
        owner = _owner(store)
        give_to(store.with_name(store.name + ".lock"), owner)
        new = store.with_name(store.name + RESTORING)
        say("copying it")
        epoch, readings_n, newest_ms = _prepare(source, new, owner)
        try:
            aside = _put_in_place(new, store, f"{ASIDE}{now_local:%Y%m%d_%H%M%S}", say)
        finally:
            remove_database(new)
        farm_aside = None
        if text is not None:
            say("putting the farm register in its place")
            farm_aside = _put_register(text, farm, f"{ASIDE}{now_local:%Y%m%d_%H%M%S}", owner)
        return Restored(readings_n, newest_ms, epoch, aside, farm_source, farm_aside)
    except OSError as error:
        raise StoreError(
            f"{store.parent}: {error.strerror}: {error.filename}",
            "check free space and the directory's owner",
        ) from error
    except sqlite3.Error as error:
        raise store_error(store, error) from error
    finally:
        lock.release(closed=True)


def _stopped(store: Path) -> WriterLock:
    try:
        return WriterLock(store)
    except StoreError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise StoreError(error.message, "stop it first: sudo systemctl stop barn-gateway") from error
        raise


def _check(source: Path, store: Path, farm_source: Path | None) -> tuple[bytes | None, Path | None]:
    """The register's text and file. Nothing has been changed yet when this raises."""
    if not source.is_file():
        raise StoreError(f"{source}: there is no such file", "backups lie in backup.directory")
    if store.exists() and source.samefile(store):
        raise StoreError(f"{source}: is the store itself", "name a backup")
    faults = verify(source)
    if faults:
        raise ChecksFailedError(
            f"{source}: is no good backup, nothing was changed: {faults[0].what}",
            "take another one; barn-gateway verify-store FILE lists everything",
        )
    if farm_source is None:
        beside = farm_beside(source.name)
        if beside is None or not source.with_name(beside).exists():
            return None, None
        farm_source = source.with_name(beside)
    try:
        text = read_register(farm_source)
    except StoreError as error:
        raise ChecksFailedError(
            f"{error.message}; nothing was changed", "name another with --farm"
        ) from error
    if text is None:
        raise StoreError(f"{farm_source}: there is no such file", "registers lie in backup.directory")
    return text, farm_source


def _prepare(source: Path, new: Path, owner: tuple[int, int]) -> tuple[str, int, int | None]:
    """The backup's copy beside the store: of this code's schema, with an epoch of its own, synced."""
    with Snapshot(source) as snapshot:
        free_bytes = shutil.disk_usage(new.parent).free
        need_bytes = snapshot.size_bytes + ROOM_RESERVE_BYTES
        if free_bytes < need_bytes:
            raise StoreError(
                f"{new.parent}: the restored store needs {need_bytes} bytes and {free_bytes} are free",
                "move old files away first",
            )
        snapshot.copy_to(new, pause_s=0.0)
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            migrate(db, migrations())
            take_over(db)
            forget_received_ids(db)
            epoch = renew_epoch(db)
            readings_n, newest_ms = _contents(db)
        _sync(new)
        give_to(new, owner)
    except BaseException:  # cleaned up, then raised again
        remove_database(new)
        raise
    return epoch, readings_n, newest_ms


def _contents(db: sqlite3.Connection) -> tuple[int, int | None]:
    """Readings in both of their homes, and the newest instant."""
    (hot_n,) = db.execute("SELECT count(*) FROM hot_readings").fetchone()
    (packed_n,) = db.execute("SELECT ifnull(sum(rows_n), 0) FROM chunks").fetchone()
    last = newest.recent(db, None, 1)
    return hot_n + packed_n, last[0].timestamp_ms if last else None


def _put_in_place(new: Path, store: Path, aside: str, say: Callable[[str], None]) -> Path | None:
    kept = None
    if store.exists():
        say("folding the present store's log into it")
        _fold_log(store)
        kept = _free_name(store, aside)
        say(f"keeping the present store as {kept}")
        # A second name first: the store has its own until the rename that gives it to the new file.
        kept.hardlink_to(store)
    say("moving the present store's log aside")
    # What is left of a log now belongs to a damaged store, or is empty and held by a reader. It
    # must not meet the new file: SQLite would play it into that.
    for ending in ("-wal", "-shm"):
        log = store.with_name(store.name + ending)
        if log.exists():
            log.rename(_free_name(store, aside, ending) if kept is None else Path(f"{kept}{ending}"))
    sync_directory(store.parent)
    say("putting the backup in its place")
    new.replace(store)
    sync_directory(store.parent)
    return kept


def _fold_log(store: Path) -> None:
    """Everything committed stands in the one file; a damaged store is left as it is."""
    try:
        if is_new(store):
            return
        probe(store, READERS_WAIT_S)
        with contextlib.closing(sqlite3.connect(store, timeout=READERS_WAIT_S, isolation_level=None)) as db:
            (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (sqlite3.Error, StoreError) as error:
        cause = error if isinstance(error, sqlite3.Error) else error.__cause__
        if getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _LEFT_ALONE:
            return
        raise
    if busy:
        raise StoreError(f"{store}: another program reads it", "close it (a sqlite3 shell?) and try again")


def _put_register(text: bytes, farm: Path, aside: str, owner: tuple[int, int]) -> Path | None:
    kept = None
    farm.parent.mkdir(parents=True, exist_ok=True)
    if farm.exists():
        kept = _free_name(farm, aside)
        kept.hardlink_to(farm)
    write_whole(farm, text, owner)
    sync_directory(farm.parent)
    return kept


def _free_name(path: Path, aside: str, ending: str = "") -> Path:
    name, n = f"{path.name}{aside}", 1
    while (free := path.with_name((name if n == 1 else f"{name}-{n}") + ending)).exists():
        n += 1  # a Pi without a clock can meet the same second twice
    return free


def _owner(store: Path) -> tuple[int, int]:
    """Whose the store is, or will be: root restores, the gateway's user must write."""
    facts = (store if store.exists() else store.parent).stat()
    return facts.st_uid, facts.st_gid


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
