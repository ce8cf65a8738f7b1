"""Every released schema: opened and migrated by today's code, used again by the code it came from, and
nothing either of them wrote is lost (decision 42)."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from gateway.core.broker_state import (
    BrokerState,
    IdTaken,
    Message,
    Queued,
    Retained,
    SessionSeen,
    StateBounds,
    Subscribed,
)
from gateway.core.readings import Reading
from gateway.core.silences import Silence
from gateway.errors import StoreError
from gateway.store import alerts, broker_state, dead_letters, newest, outbox, readings, silences
from gateway.store.database import Database
from gateway.store.integrity import verify
from gateway.store.migrations import migrations
from gateway.store.opening import open_readonly
from gateway.store.readings import Outcome
from gateway.store.restore import restore
from tests.store import release_1, release_2, release_3

FIXTURES = Path(__file__).parent / "fixtures"

RELEASES: dict[str, ModuleType] = {
    "schema_0001.sql": release_1,
    "schema_0002.sql": release_2,
    "schema_0003.sql": release_3,
}
"""A store as a release left it → what that release says to a store. One line for each schema."""

released = pytest.mark.parametrize(("dump", "release"), RELEASES.items(), ids=list(RELEASES))


def load(dump: str, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript((FIXTURES / dump).read_text(encoding="utf-8"))


def reading(row: tuple[object, ...]) -> Reading:
    """A row of the release's own SELECT as today's reading."""
    cow_id, ts_ms, temperature, fxa, mya, rza, sxg, lyg, dzg, state, motion, received_ms, flags = row

    def unscaled(value: object, steps: int) -> float | None:
        return value / steps if isinstance(value, int) else None

    return Reading(
        cow_id=str(cow_id),
        timestamp_ms=int(str(ts_ms)),
        temperature_c=unscaled(temperature, 100) or 0.0,
        fxa_g=unscaled(fxa, 1000) or 0.0,
        mya_g=unscaled(mya, 1000) or 0.0,
        rza_g=unscaled(rza, 1000) or 0.0,
        sxg_dps=unscaled(sxg, 100),
        lyg_dps=unscaled(lyg, 100),
        dzg_dps=unscaled(dzg, 100),
        state=None if state is None else str(state),
        motion_intensity=unscaled(motion, 1000),
        received_ms=int(str(received_ms)),
        flags=int(str(flags)),
    )


TAKEN_OVER = {1: {"readings", "windows"}, 2: set[str](), 3: set[str]()}
"""What a version's own tables no longer show, because today's code has moved it (store/takeover.py)."""
UNDELIVERED_IN = {1: "dirty", 2: "undelivered", 3: "undelivered"}
"""Where a version notes what it has still to deliver; row (0, 0) of the first is a counter."""

BROKER_KEPT = (
    SessionSeen("tablet", 1_764_039_000_000),
    Subscribed("tablet", "artemis/alerts/#", 1),
    Queued("tablet", 7, Message("artemis/alerts/COW_001/fever", b"{}", 1, retain=False)),
    IdTaken("tablet", 9),
    Retained(Message("barn/door", b"open", 1, retain=True)),
)

HELD = Silence(1, "COW_001", None, 1_764_039_000_000, 1_764_060_000_000, "Anna", "web", "treated")
NOTICE = (
    "INSERT INTO notices (channel, seq, contact, outcome, at_ms, alert_id, address)"
    " VALUES ('sms', 1, 'Anna', 'sent', 1764039000000, 1, '+43')"
)


def broker_kept(db: Database) -> BrokerState:
    return db.read_now(partial(broker_state.load, bounds=StateBounds(9, 9, 9, 999, 9, 9, 999)))


def waiting_there(db: sqlite3.Connection, release: ModuleType) -> set[tuple[int, str]]:
    """Slices the release would still deliver."""
    table = UNDELIVERED_IN[release.VERSION]
    return set(
        db.execute(
            f"SELECT d.hour, a.cow_id FROM {table} d JOIN animals a ON a.id = d.animal WHERE d.hour > 0"
        )
    )


def waiting_here(db: sqlite3.Connection) -> set[tuple[int, str]]:
    """Slices today's code would still deliver."""
    return {
        (hour, cow_id)
        for hour, cow_id in db.execute(
            "SELECT d.hour, a.cow_id FROM undelivered d JOIN animals a ON a.id = d.animal"
        )
    }


@released
def test_todays_code_opens_it_and_every_row_is_there(tmp_path: Path, dump: str, release: ModuleType) -> None:
    path = tmp_path / "data" / "alert_state.db"
    load(dump, path)
    with closing(sqlite3.connect(path)) as old:
        before, waiting = release.read(old), waiting_there(old, release)
    assert all(before.values())
    db = Database.open(path)
    assert (db.gateway_id, db.epoch) == ("gw-0123456789ab", "abcdef012345")
    assert db.read_now(lambda c: c.execute("PRAGMA user_version").fetchone()) == (len(migrations()),)
    after = db.read_now(release.read)
    assert {name: after[name] for name in after if name not in TAKEN_OVER[release.VERSION]} == {
        name: before[name] for name in before if name not in TAKEN_OVER[release.VERSION]
    }
    assert db.read_now(waiting_here) == waiting
    _knows_all(db, before, before["readings"])
    db.close_now()
    assert verify(path) == []


@released
def test_its_backups_are_whole_and_can_be_restored(tmp_path: Path, dump: str, release: ModuleType) -> None:
    backup = tmp_path / "backups" / "alert_state_20251125_020000.db"
    load(dump, backup)
    with closing(sqlite3.connect(backup)) as old:
        before = release.read(old)
    assert verify(backup) == []
    store = tmp_path / "data" / "alert_state.db"
    done = restore(backup, store, tmp_path / "data" / "farm.json", datetime(2025, 11, 26))  # noqa: DTZ001
    packed_n = sum(rows_n for _, rows_n, *_ in before.get("chunks", []))
    assert done.readings_n == len(before["readings"]) + packed_n
    db = Database.open(store)
    _knows_all(db, before, before["readings"])
    db.close_now()


@released
def test_whoever_only_reads_names_the_remedy_before_it_is_migrated(
    tmp_path: Path, dump: str, release: ModuleType
) -> None:
    path = tmp_path / "data" / "alert_state.db"
    load(dump, path)
    with pytest.raises(StoreError, match=r"earlier gateway.*start the gateway once"), open_readonly(path):
        pass
    Database.open(path).close_now()
    with open_readonly(path) as db:
        assert newest.recent(db, None, 1)


@released
def test_its_own_code_goes_on_with_the_migrated_file_and_nothing_is_lost(
    tmp_path: Path, dump: str, release: ModuleType
) -> None:
    path = tmp_path / "data" / "alert_state.db"
    load(dump, path)
    with closing(sqlite3.connect(path)) as old:
        first = release.read(old)["readings"]
    today = Database.open(path)
    today.write_now(partial(broker_state.apply, changes=BROKER_KEPT))
    today.write_now(lambda c: silences.save(c, msgspec.structs.replace(HELD, id=0)))
    today.write_now(lambda c: c.execute(NOTICE) and None)
    state = broker_kept(today)
    assert state.sessions
    assert state.retained
    today.close_now()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:  # the rollback
        release.opens(old)
        before = release.read(old)
        waited = waiting_here(old)
        old.execute("BEGIN IMMEDIATE")
        release.write(old)
        old.execute("COMMIT")
        after = release.read(old)
        new = {(row[1] // 3_600_000, row[0]) for row in release.NEW_READINGS}
        if release is release_1:
            assert waiting_here(old) == waited, "what it does not know it does not touch"
    for name, rows in before.items():
        kept = set(rows) - set(after[name])
        assert not kept or name in {"cursors", "animals"}, f"{name}: {kept}"
    assert len(after["readings"]) == len(before["readings"]) + len(release.NEW_READINGS)
    assert len(after["sensor_data"]) == len(first) + len(release.NEW_READINGS)

    db = Database.open(path)  # and forward again
    found = broker_kept(db)
    for one in (*state.sessions, *state.retained):
        assert one in (*found.sessions, *found.retained), "the broker finds what it had left"
    assert db.read_now(silences.holding) == [HELD], "what it does not know it does not touch"
    assert db.read_now(lambda c: c.execute("SELECT contact FROM notices").fetchall()) == [("Anna",)]
    assert db.read_now(waiting_here) == waited | new
    marked = db.read_now(
        lambda c: set(
            c.execute("SELECT r.hour, a.cow_id FROM arrived r JOIN animals a ON a.id = r.animal").fetchall()
        )
    )
    assert new <= marked, "it will be rolled up and packed"
    _knows_all(db, after, first + after["readings"])
    db.close_now()
    assert verify(path) == []


@released
def test_a_rollback_delivers_its_own_and_leaves_what_waits_here(
    tmp_path: Path, dump: str, release: ModuleType
) -> None:
    path = tmp_path / "data" / "alert_state.db"
    load(dump, path)
    Database.open(path).close_now()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        waited = waiting_here(old)
        assert waited
        release.append(old, release.NEW_READINGS)
        assert release.ship(old) > 0
        assert waiting_there(old, release) == set()
    db = Database.open(path)
    assert db.read_now(waiting_here) == (waited if release is release_1 else set())
    db.close_now()


def _knows_all(
    db: Database, rows: dict[str, list[tuple[object, ...]]], stored: list[tuple[object, ...]]
) -> None:
    """Today's functions see what the release's own statements see."""
    known = [reading(row) for row in stored]
    assert set(db.write_now(lambda c: readings.append(c, known))) == {Outcome.DUPLICATE}
    assert [alert.id for alert in db.read_now(alerts.open_alerts)] == [row[0] for row in rows["open"]]
    assert db.read_now(lambda c: [e.seq for e in outbox.after(c, 0, 1000)]) == [
        row[0] for row in rows["events"]
    ]
    assert db.read_now(lambda c: [(d, outbox.cursor(c, d)) for d in ("cloud",)]) == rows["cursors"]
    assert db.read_now(dead_letters.count) == len(rows["letters"])
    steps = [
        step
        for row in rows["alerts"]
        for step in db.read_now(partial(alerts.history, alert_id=int(str(row[0]))))
    ]
    assert len(steps) == len(rows["history"])


def test_a_released_schema_stands_in_the_list() -> None:
    """Every version but the newest has been released; its store is a fixture."""
    assert sorted(path.name for path in FIXTURES.glob("schema_*.sql")) == sorted(RELEASES)
    assert len(RELEASES) >= len(migrations()) - 1


FORBIDDEN = re.compile(
    r"\bDROP\b|\bRENAME\b|\bALTER\s+TABLE\b(?!\s+\w+\s+ADD\s+COLUMN\b)|\bDELETE\s+FROM\b|\bREPLACE\s+INTO\b"
    r"|\bOR\s+REPLACE\b|\bwritable_schema\b|\bVACUUM\b",
    re.IGNORECASE,
)


def shrinking(sql: str) -> list[str]:
    """Statements that take something away; comments are no statements. What a trigger does later
    counts too: the old code would run into it."""
    sql = re.sub(r"--[^\n]*", "", sql)
    for view in re.findall(r"CREATE VIEW (\w+)", sql):
        sql = sql.replace(f"DROP VIEW {view};", "")  # a view holds nothing, and is there again
    return FORBIDDEN.findall(sql)


def test_migrations_only_expand() -> None:
    assert [(m.version, found) for m in migrations() if (found := shrinking(m.sql))] == []


@pytest.mark.parametrize("version", [m.version for m in migrations()])
def test_every_schema_says_which_code_may_run_on_it(version: int) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for migration in migrations()[:version]:
            db.executescript(migration.sql)
        (runs_on,) = db.execute(
            "SELECT runs_on FROM schema_versions WHERE version = ?", (version,)
        ).fetchone()
    assert 1 <= runs_on <= max(1, version - 1), "the release before must be able to go on with it"


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE hot;",
        "drop view sensor_data;",
        "ALTER TABLE hot RENAME COLUMN flags TO f;",
        "ALTER TABLE hot DROP COLUMN flags;",
        "DELETE FROM dirty;",
        "INSERT OR REPLACE INTO meta VALUES ('epoch', 1);",
    ],
)
def test_a_statement_that_takes_away_is_found(sql: str) -> None:
    assert shrinking(sql)


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE x (dropped_at);", "ALTER TABLE x ADD COLUMN y;", "-- DROP TABLE hot\nSELECT 1;"]
)
def test_a_statement_that_adds_is_not(sql: str) -> None:
    assert shrinking(sql) == []
