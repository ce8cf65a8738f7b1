"""Who a store is: its ids, and what it takes over from the damaged one it replaces.

Runs in the thread that opens the store, in one transaction: a power cut leaves either nothing of
it or all of it, and the next start does it again.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.core.backups import store_time
from gateway.errors import StoreError
from gateway.store import meta, quarantine, salvage
from gateway.store.damaged_file import damaged_store
from gateway.store.identity import epoch, renew_epoch
from gateway.store.opening import connect_readonly, is_new, probe
from gateway.store.quarantine import Recovery
from gateway.store.salvage import RECORDS_S_MAX, Tally
from gateway.store.transactions import transaction

BACKUPS_LOOKED_AT = 7
"""One week of nightly backups (decision 31); the newest that is whole is taken."""


class Identity(msgspec.Struct, frozen=True):
    """The store's ids, and what came over from the damaged store when it was made.

    Args:
        records: what was salvaged of the small tables; None where there was nothing to do.
        from_backup: name of the backup that filled gaps in them.
    """

    gateway_id: str
    epoch: str
    records: Tally | None = None
    from_backup: str = ""


def settle_identity(
    path: Path, db: sqlite3.Connection, recovery: Recovery | None, backups: Path, named: Path
) -> Identity:
    """Read the ids, or make them; after a recovery the epoch is always a new one (decision 39).

    Args:
        path: the store's file.
        db: its writing connection.
        recovery: what the opening had to do before.
        backups: where backups lie.
        named: the path as it was given, by whose stem they are called.

    Raises:
        sqlite3.Error: the new store cannot be written.
    """
    bad = None if recovery is None else recovery.bad
    with contextlib.ExitStack() as stack:
        kept_id = None if recovery is None else recovery.gateway_id
        backup = None if bad is None else newest_backup(backups, named, kept_id)
        spare = None if backup is None else stack.enter_context(reading(backup))
        if spare is not None and kept_id is None:
            kept_id = _gateway_id(spare)
        with transaction(db):
            identity = _ids(db, kept_id, renew=recovery is not None)
            if bad is not None and recovery is not None:
                records, filled = _take_over(bad, spare, db)
                name = backup.name if backup is not None and filled else ""
                identity = msgspec.structs.replace(identity, records=records, from_backup=name)
                quarantine.remember_sources(db, recovery.sources)
    if bad is not None:
        quarantine.settled(path)
    return identity


def newest_backup(folder: Path, path: Path, gateway_id: str | None) -> Path | None:
    """The newest backup of this gateway's store that is whole; None if there is none.

    Args:
        folder: where backups lie.
        path: the store, as its opener named it.
        gateway_id: whose backup it must be; None = any.
    """
    found = (file for file in folder.glob("*.db") if store_time(file.name, path.stem))
    for backup in sorted(found, reverse=True)[:BACKUPS_LOOKED_AT]:
        try:
            if is_new(backup):
                continue
            probe(backup, timeout_s=0)
            with reading(backup) as db:
                if gateway_id in {None, _gateway_id(db)}:
                    return backup
        except (StoreError, sqlite3.Error):
            continue
    return None


@contextlib.contextmanager
def reading(store: Path) -> Iterator[sqlite3.Connection]:
    """A whole store, read-only. Raises sqlite3.Error."""
    with contextlib.closing(connect_readonly(store, timeout_s=0)) as db:
        yield db


def _gateway_id(db: sqlite3.Connection) -> str | None:
    kept = meta.get(db, "gateway_id")
    return None if kept is None else str(kept)


def _ids(db: sqlite3.Connection, kept_id: str | None, *, renew: bool) -> Identity:
    if meta.get(db, "gateway_id") is None:
        meta.put(db, "gateway_id", kept_id or f"gw-{secrets.token_hex(6)}")
    if renew or meta.get(db, "epoch") is None:
        renew_epoch(db)
    return Identity(str(_gateway_id(db)), epoch(db))


def _take_over(bad: Path, spare: sqlite3.Connection | None, db: sqlite3.Connection) -> tuple[Tally, bool]:
    """The records of the damaged store, and whether the backup had to fill in for some."""
    began_s = time.monotonic()

    def in_time() -> bool:
        return time.monotonic() - began_s < RECORDS_S_MAX

    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(damaged_store(bad))
        except sqlite3.DatabaseError:
            tally = Tally(lost=salvage.all_records())
        else:
            tally = salvage.save_records(source, db, in_time)
    if spare is None or not any(tally.lost.values()):
        return tally, False
    filled = salvage.save_records(spare, db, in_time, tally.lost)
    for table, n in filled.saved.items():
        tally.count(table, saved=n)
    return tally, True
