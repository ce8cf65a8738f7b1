"""What `verify-store` looks at (beside a running gateway, read-only), and what it finds.

The main thread of a command. Each part reads in snapshots of its own, so that the log of a gateway
that goes on writing can be reset between them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.core.integrity import RESTORE, Fault, Progress
from gateway.errors import StoreError
from gateway.store.faults import StoreDamagedError, is_store_fault, store_error
from gateway.store.integrity_packed import packed_faults
from gateway.store.links import log_of
from gateway.store.migrations import PACKED_SINCE, check_usable, migrations, version_of
from gateway.store.opening import connect_readonly, is_new

FAULTS_MAX = 100
"""Faults named of one kind; a card that has lost a megabyte would fill the screen."""

_OF_ANIMALS = {
    "hot": "readings",
    "dirty": "slices to be delivered",
    "hot_readings": "readings",
    "undelivered": "slices to be delivered",
}
"""Tables with a column `animal`, and what their rows are; the first two are version 1's."""
_OF_SESSIONS = {
    "broker_filters": "filters",
    "broker_waiting": "messages",
    "broker_received": "packet ids",
}
"""Tables with a column `session`, and what their rows are."""


def verify(path: Path, progress: Progress = lambda _what, _done, _total: None) -> list[Fault]:
    """Everything that is wrong with a store or a backup; nothing is changed.

    Raises:
        StoreError: there is no such file, or it cannot be opened for other reasons than damage.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no store", "start the gateway once, or check database.path")
    try:
        if is_new(path):
            return [Fault(str(path), "the file is empty")]
    except StoreDamagedError as error:
        return [Fault(str(path), error.message.removeprefix(f"{path}: "))]
    found: list[Fault] = []
    try:
        with closing(connect_readonly(path, 5.0)) as db:
            check_usable(db, path, len(migrations()))
            if not version_of(db):
                return [Fault(str(path), "holds no tables: the gateway's first start was cut off")]
            progress("pages", 0, 0)
            found += _pages(db, path)
            if not found:  # what stands on a broken page says nothing about the rest
                found += _references(db, path, progress)
                if version_of(db) >= PACKED_SINCE:
                    found += packed_faults(db, path, progress)
    except sqlite3.Error as error:
        found.append(_unreadable(path, error))
    except StoreError as error:
        found.append(Fault(str(path), error.message.removeprefix(f"{path}: "), error.hint or RESTORE))
    return found


def _pages(db: sqlite3.Connection, path: Path) -> list[Fault]:
    """SQLite's own check of pages and indexes, and that no byte of the file is missing."""
    found: list[Fault] = []
    try:
        said = db.execute(f"PRAGMA integrity_check({FAULTS_MAX})").fetchall()
        found += [Fault(str(path), " ".join(str(row[0]).split())) for row in said if row[0] != "ok"]
        found += _length(db, path)
    except sqlite3.DatabaseError as error:  # some damage ends the check before it has said where
        if not is_store_fault(error):
            raise
        found += _unreadable_tables(db, path) or [_unreadable(path, error)]
    return found


def _length(db: sqlite3.Connection, path: Path) -> list[Fault]:
    log = log_of(path)
    size_bytes = path.stat().st_size
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    if size_bytes % page_bytes and not (log.exists() and log.stat().st_size):
        return [Fault(str(path), f"{size_bytes} bytes long, but has {pages} pages of {page_bytes}")]
    return []


def _unreadable_tables(db: sqlite3.Connection, path: Path) -> list[Fault]:
    """Which tables break off when they are read from end to end, and where."""
    found = []
    tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rootpage").fetchall()
    for (table,) in tables:
        rows_n = 0
        try:
            for _ in db.execute(f'SELECT * FROM "{table}"'):
                rows_n += 1
        except sqlite3.DatabaseError as error:
            what = f"{error}: cannot be read behind its first {rows_n} rows"
            found.append(Fault(f"{path}, table {table}", what))
    return found


def _references(db: sqlite3.Connection, path: Path, progress: Progress) -> list[Fault]:
    found: list[Fault] = []
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    of_animals = {table: what for table, what in _OF_ANIMALS.items() if table in there}
    for number, (table, what) in enumerate(of_animals.items()):
        progress("references", number, len(of_animals) + 1)
        rows = db.execute(
            f"SELECT animal, count(*) FROM {table} WHERE animal NOT IN (SELECT id FROM animals)"
            f" AND animal <> 0 GROUP BY animal LIMIT {FAULTS_MAX}"
        )
        found += [
            Fault(f"{path}, table {table}", f"{n} {what} of animal number {animal}, which is not in animals")
            for animal, n in rows
        ]
    for table, what in _OF_SESSIONS.items():
        if table not in there:
            continue
        rows = db.execute(
            f"SELECT session, count(*) FROM {table} WHERE session NOT IN (SELECT id FROM broker_sessions)"
            f" GROUP BY session LIMIT {FAULTS_MAX}"
        )
        found += [
            Fault(f"{path}, table {table}", f"{n} {what} of session {one}, which is not in broker_sessions")
            for one, n in rows
        ]
    rows = db.execute(
        "SELECT h.alert_id, count(*) FROM alert_history h LEFT JOIN alert_episodes a ON a.id = h.alert_id"
        f" WHERE a.id IS NULL GROUP BY h.alert_id LIMIT {FAULTS_MAX}"
    )
    found += [
        Fault(f"{path}, table alert_history", f"{n} steps of alert {alert}, which is not in alert_episodes")
        for alert, n in rows
    ]
    return found


def _unreadable(path: Path, error: sqlite3.Error) -> Fault:
    if not is_store_fault(error):
        raise error
    fault = store_error(path, error)
    return Fault(str(path), fault.message.removeprefix(f"{path}: "), RESTORE)
