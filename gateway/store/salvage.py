"""From a damaged store into a new one: all but readings (small, wanted at once).

Functions over two connections, run in the thread that opens the store, before anything else uses it:
open alerts and their episodes must be back before the alarm service looks, sessions before the broker
starts. Readings follow behind (salvage_readings). Rows keep their numbers; whatever is there already
stays as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

from gateway.core.messages import Reason
from gateway.core.severity import Severity
from gateway.core.validation import COW_ID
from gateway.store import alerts
from gateway.store.migrations import BROKER_SINCE, PEOPLE_SINCE, version_of
from gateway.store.salvage_walk import Gap, Row, Table, everything, rows

RECORDS_S_MAX = 4.0
"""What salvaging records may add to an opening; the gateway must be up within 10 s. A Pi 4 moves
about 10,000 rows a second: 40,000 alerts, events and dead letters, newest first. Older ones of a
store with more stay in the damaged file, and the alert says so."""

READABLE_ROWS_MAX = 65_536
"""Rows of a table of names, counters or cursors: twice the animals that a reading's key has room for
(15 bits). Pages that lead back to themselves have no end."""

Tables = dict[str, list[Gap]]
"""Table → keys to read. As what was lost in one source, it is what to look for in the next."""

_INT, _TEXT, _BLOB, _REAL = (int,), (str,), (bytes,), (float, int)
_INT_OR_NONE, _TEXT_OR_NONE = (int, type(None)), (str, type(None))


class Tally(msgspec.Struct):
    """What came out of one source, by table.

    Args:
        saved: rows that were read and are in the new store now.
        refused: rows that were read and hold what no row of ours can hold.
        lost: keys that could not be read.
        cut_short: tables whose older rows were left because the time was up.
    """

    saved: dict[str, int] = msgspec.field(default_factory=dict)
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    lost: Tables = msgspec.field(default_factory=dict)
    cut_short: list[str] = msgspec.field(default_factory=list)

    def count(self, table: str, *, saved: int = 0, refused: int = 0) -> None:
        """Add to a table's figures."""
        self.saved[table] = self.saved.get(table, 0) + saved
        self.refused[table] = self.refused.get(table, 0) + refused


class _Records(msgspec.Struct, frozen=True):
    """A small table: what its columns may hold, and what a row must be besides."""

    table: Table
    types: tuple[tuple[type, ...], ...]
    fits: Callable[[Row], object] = bool  # raises ValueError (or returns) for each row
    where: str = ""  # condition of the insert
    since: int = 1  # the store's version that brought the table
    people_columns: int = 0  # how many of the last columns came with version PEOPLE_SINCE
    ages: bool = False  # what a backup has of it is out of date, and no help


def _of(name: str, columns: dict[str, tuple[type, ...]], **rest: Any) -> _Records:
    names = tuple(columns)
    return _Records(Table(name, names[:1], names, keys_from=1), tuple(columns.values()), **rest)


_EPISODE_TYPES = (
    *(_TEXT, _TEXT, _INT, _INT, _TEXT, _INT, _INT, _INT, _INT),
    *(_REAL, _TEXT, _TEXT, _TEXT, _INT, _INT, _INT_OR_NONE, _INT, _INT, _TEXT),
)
_OF_BROKER = {"since": BROKER_SINCE, "ages": True}
_OF_KNOWN_SESSION = "EXISTS (SELECT 1 FROM broker_sessions WHERE id = ?2)"
_RECORDS = (
    _of(
        "alert_episodes",
        {"id": _INT, **dict(zip(alerts.COLUMNS.split(", "), _EPISODE_TYPES, strict=True))},
        fits=alerts.decode,
        people_columns=alerts.COLUMNS_OF_PEOPLE,
    ),
    _of(
        "alert_history",
        {
            "id": _INT,
            "alert_id": _INT,
            "at_ms": _INT,
            "from_state": _TEXT,
            "to_state": _TEXT,
            "severity": _INT,
            "who": _TEXT,
            "origin": _TEXT,
            "reason": _TEXT,
        },
        fits=lambda row: Severity(row[5]),
        where="EXISTS (SELECT 1 FROM alert_episodes WHERE id = ?2)",
    ),
    _of("events", {"seq": _INT, "kind": _TEXT, "created_ms": _INT, "payload": _BLOB}),
    _of(
        "dead_letters",
        {
            "id": _INT,
            "received_ms": _INT,
            "topic": _TEXT,
            "payload": _BLOB,
            "client_id": _TEXT,
            "reason": _TEXT,
            "text": _TEXT,
            "cow_id": _TEXT_OR_NONE,
        },
        fits=lambda row: Reason(row[5]),
    ),
    # A backup's silence may have been ended since: rather a sound too many.
    _of(
        "silences",
        {
            "id": _INT,
            "subject": _TEXT_OR_NONE,
            "kind": _TEXT_OR_NONE,
            "from_ms": _INT,
            "until_ms": _INT,
            "who": _TEXT,
            "origin": _TEXT,
            "reason": _TEXT,
            "ended_ms": _INT_OR_NONE,
            "ended_by": _TEXT,
        },
        since=PEOPLE_SINCE,
        ages=True,
    ),
    _of(
        "notices",
        {
            "id": _INT,
            "channel": _TEXT,
            "seq": _INT,
            "contact": _TEXT,
            "outcome": _TEXT,
            "at_ms": _INT,
            "alert_id": _INT_OR_NONE,
            "address": _TEXT,
        },
        where="?7 IS NULL OR EXISTS (SELECT 1 FROM alert_episodes WHERE id = ?7)",
        since=PEOPLE_SINCE,
    ),
    # Of the broker (its packet ids are left: a stale one would swallow a message); `load` judges the values.
    _of("broker_sessions", {"id": _INT, "client_id": _TEXT, "seen_ms": _INT}, **_OF_BROKER),
    _of(
        "broker_filters",
        {"id": _INT, "session": _INT, "topic_filter": _TEXT, "qos": _INT},
        where=_OF_KNOWN_SESSION,
        **_OF_BROKER,
    ),
    _of("broker_retained", {"id": _INT, "topic": _TEXT, "qos": _INT, "payload": _BLOB}, **_OF_BROKER),
    _of(
        "broker_waiting",
        {
            "id": _INT,
            "session": _INT,
            "number": _INT,
            "received": _INT,
            "qos": _INT,
            "retain": _INT,
            "topic": _TEXT,
            "payload": _BLOB,
        },
        where=_OF_KNOWN_SESSION,
        **_OF_BROKER,
    ),
)


def save_records(
    source: sqlite3.Connection,
    db: sqlite3.Connection,
    in_time: Callable[[], bool],
    wanted: Tables | None = None,
) -> Tally:
    """Copy the small tables; inside the caller's transaction.

    Args:
        source: the damaged store, or a backup of it.
        db: the new store; the connection is in a transaction.
        in_time: False once the time is up.
        wanted: of these tables only these keys (what another source could not give).
    """
    tally = Tally()
    names = animal_names(source)
    # Widened again by every reading that is salvaged; a wide guess would hide the newest reading.
    db.executemany(
        "INSERT OR IGNORE INTO animals (cow_id, first_hour, last_hour) VALUES (?, 2147483647, 0)",
        ((cow_id,) for _, cow_id in sorted(names.items())),
    )
    tally.count("animals", saved=len(names))
    if wanted is None:
        _copy_counters(source, db)
    for records in _RECORDS:
        name = records.table.name
        if version_of(source) < records.since or (wanted is not None and records.ages):
            continue
        gaps = [everything(records.table)] if wanted is None else wanted.get(name, [])
        for gap in gaps:
            _copy(_Way(source, db, in_time), _as_of(records, version_of(source)), gap, tally)
    _copy_cursors(source, db)
    return tally


def all_records() -> Tables:
    """Every key of every table: the source cannot be read at all."""
    return {records.table.name: [everything(records.table)] for records in _RECORDS}


def animal_names(source: sqlite3.Connection) -> dict[int, str]:
    """The numbers its readings carry → cow ids; from the table and, where it is damaged, its index."""
    found: dict[int, str] = {}
    for index in ("NOT INDEXED", "INDEXED BY sqlite_autoindex_animals_1"):
        for order in ("ASC", "DESC"):
            query = f"SELECT id, cow_id FROM animals {index} ORDER BY cow_id {order}"
            if index.startswith("NOT"):
                query = query.replace("BY cow_id", "BY id")
            for animal, cow_id in readable(source, query):
                if type(animal) is int and type(cow_id) is str and COW_ID.fullmatch(cow_id):
                    found.setdefault(animal, cow_id)
    return found


def readable(source: sqlite3.Connection, query: str) -> Iterator[Row]:
    """The rows of a query up to the first damage, `READABLE_ROWS_MAX` at most."""
    try:
        yield from islice(source.execute(query), READABLE_ROWS_MAX)
    except sqlite3.DatabaseError:
        return


class _Way(msgspec.Struct, frozen=True):
    """From where, to where, and for how long."""

    source: sqlite3.Connection
    db: sqlite3.Connection
    in_time: Callable[[], bool]


def _as_of(records: _Records, version: int) -> _Records:
    """As a store of that version has it; what it does not know takes its default."""
    if version >= PEOPLE_SINCE or not records.people_columns:
        return records
    kept = len(records.types) - records.people_columns
    table = msgspec.structs.replace(records.table, columns=records.table.columns[:kept])
    return msgspec.structs.replace(records, table=table, types=records.types[:kept])


def _copy(way: _Way, records: _Records, gap: Gap, tally: Tally) -> None:
    table = records.table
    marks = ", ".join(f"?{n}" for n in range(1, len(table.columns) + 1))
    insert = f"INSERT OR IGNORE INTO {table.name} ({', '.join(table.columns)}) SELECT {marks}"
    insert += f" WHERE {records.where}" if records.where else ""
    lost = tally.lost.setdefault(table.name, [])
    for n, row in enumerate(rows(way.source, table, lost, gap)):
        if n % 100 == 0 and not way.in_time():
            tally.cut_short.append(table.name)
            return
        if _fits(records, row):
            way.db.execute(insert, row)
            tally.count(table.name, saved=1)
        else:
            tally.count(table.name, refused=1)


def _fits(records: _Records, row: Row) -> bool:
    if not all(type(value) in types for value, types in zip(row, records.types, strict=True)):
        return False
    try:
        records.fits(row)
    except ValueError:  # msgspec's errors are such, too
        return False
    return True


def _copy_counters(source: sqlite3.Connection, db: sqlite3.Connection) -> None:
    """What was dropped in the life of the store goes on being told; claims go on being counted."""
    for key, value in readable(source, "SELECT key, value FROM meta"):
        if type(key) is str and "dropped" in key and type(value) is int and value >= 0:
            db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, value))
    claimed = "SELECT value FROM meta WHERE key = 'claims'", "SELECT rev FROM dirty WHERE hour = 0"
    for query in claimed:  # the second as version 1 kept it
        for (number,) in readable(source, query):
            if type(number) is int and 0 <= number < 2**53:
                db.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'claims'", (number,))


def _copy_cursors(source: sqlite3.Connection, db: sqlite3.Connection) -> None:
    """Each destination's place; new events are numbered behind all of them, lost ones or not."""
    for order in ("ASC", "DESC"):
        for destination, seq in readable(
            source, f"SELECT destination, seq FROM cursors ORDER BY destination {order}"
        ):
            if type(destination) is str and type(seq) is int and 0 <= seq < 2**53:
                db.execute(
                    "INSERT OR IGNORE INTO cursors (destination, seq) VALUES (?, ?)", (destination, seq)
                )
    (highest,) = db.execute("SELECT coalesce(max(seq), 0) FROM cursors").fetchone()
    if not db.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'events'", (highest,)
    ).rowcount:
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (highest,))
