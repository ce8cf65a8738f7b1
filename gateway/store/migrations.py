"""Numbered schema files, each applied in one transaction. Runs in the thread that opens the store.

Migrations only expand (decision 42): every file records in `schema_versions` the oldest code that
may go on using the store, so a rollback to the previous release keeps working and an unknown newer
layout is refused.
"""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from gateway.errors import StoreError
from gateway.store.faults import StoreDamagedError

APPLICATION_ID = 0x41525447
"""`PRAGMA application_id` of our files: "ARTG"."""
PACKED_SINCE = 2
"""The version that brought `hot_readings`, `undelivered` and packed hours; older files have none of them."""
BROKER_SINCE = 3
"""The version that brought what the MQTT broker keeps over a restart."""
PEOPLE_SINCE = 4
"""The version that brought silences, notices, and what an alert knows of who was told."""

_OURS = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('schema_versions', 'dirty')"
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class Migration(NamedTuple):
    """One schema file; `version` is the store's `user_version` once it has been applied."""

    version: int
    sql: str


def migrations() -> tuple[Migration, ...]:
    """All schema files shipped with this code, numbered 1, 2, 3 … without a gap."""
    found = []
    for entry in resources.files("gateway.store").joinpath("schema").iterdir():
        match = _FILE_NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match.group(1)), entry.read_text(encoding="utf-8")))
    found.sort()
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise StoreError("the installed schema files are not numbered 0001, 0002 …", "reinstall the gateway")
    return tuple(found)


def version_of(db: sqlite3.Connection) -> int:
    """The store's `user_version`; 0 for a file nothing was written to yet."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def check_usable(db: sqlite3.Connection, path: Path, known: int) -> None:
    """Refuse a file of another program, and a layout this code does not know.

    Args:
        db: a read-only connection is enough.
        path: for the error's text.
        known: newest version this code has a schema file for.

    Raises:
        StoreDamagedError: of a newer gateway.
        StoreError: of another program. Both name the file and the remedy.
    """
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (objects or application_id):
        (ours,) = db.execute(_OURS).fetchone()
        if ours == 2:  # a bit of the header, not another program
            raise StoreDamagedError(f"{path}: its application id is {application_id:#x}")
        raise StoreError(
            f"{path}: is a SQLite database of another program",
            "move it aside, or set database.path to a file of its own",
        )
    version = version_of(db)
    if version > known and not _runs_on(db, version, known):
        raise StoreDamagedError(
            f"{path}: was written by a newer gateway (store version {version}, this one knows {known})",
            "install that version again, or restore a backup made before the upgrade",
        )


def _runs_on(db: sqlite3.Connection, version: int, known: int) -> bool:
    row = db.execute("SELECT runs_on FROM schema_versions WHERE version = ?", (version,)).fetchone()
    return row is not None and row[0] <= known


def migrate(db: sqlite3.Connection, known: tuple[Migration, ...]) -> None:
    """Apply what is missing, one transaction each: a power cut leaves the old or the new version."""
    have = version_of(db)
    for migration in known[have:] if have < len(known) else ():
        try:
            # One script, because executescript() would commit a transaction begun outside it.
            db.executescript(
                f"BEGIN IMMEDIATE;\n{migration.sql}\n"
                f"PRAGMA application_id = {APPLICATION_ID};\n"
                f"PRAGMA user_version = {migration.version};\nCOMMIT;"
            )
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
