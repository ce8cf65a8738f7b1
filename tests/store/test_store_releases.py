"""Every released schema: opened and migrated by today's code, used again by the code it came from, and
nothing either of them wrote is lost (decision 42)."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from gateway.core.readings import Reading
from gateway.store import alerts, dead_letters, outbox, readings
from gateway.store.database import Database
from gateway.store.integrity import verify
from gateway.store.migrations import migrations
from gateway.store.readings import Outcome
from tests.store import release_1

FIXTURES = Path(__file__).parent / "fixtures"

RELEASES: dict[str, ModuleType] = {
    "schema_0001.sql": release_1,
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


def undelivered(db: sqlite3.Connection) -> set[tuple[int, str]]:
    return set(
        db.execute("SELECT d.hour, a.cow_id FROM dirty d JOIN animals a ON a.id = d.animal WHERE d.hour > 0")
    )


@released
def test_todays_code_opens_it_and_every_row_is_there(tmp_path: Path, dump: str, release: ModuleType) -> None:
    path = tmp_path / "data" / "alert_state.db"
    load(dump, path)
    with closing(sqlite3.connect(path)) as old:
        before, waiting = release.read(old), undelivered(old)
    db = Database.open(path)
    assert (db.gateway_id, db.epoch) == ("gw-0123456789ab", "abcdef012345")
    assert db.read_now(lambda c: c.execute("PRAGMA user_version").fetchone()) == (len(migrations()),)
    assert db.read_now(release.read) == before
    assert db.read_now(undelivered) == waiting
    assert all(before.values())
    _knows_all(db, before)
    db.close_now()
    assert verify(path) == []


@released
def test_its_own_code_goes_on_with_the_migrated_file_and_nothing_is_lost(
    tmp_path: Path, dump: str, release: ModuleType
) -> None:
    path = tmp_path / "data" / "alert_state.db"
    load(dump, path)
    Database.open(path).close_now()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:  # the rollback
        release.opens(old)
        before = release.read(old)
        old.execute("BEGIN IMMEDIATE")
        release.write(old)
        old.execute("COMMIT")
        after, waiting = release.read(old), undelivered(old)
    for name, rows in before.items():
        kept = set(rows) - set(after[name])
        assert not kept or name in {"cursors", "animals"}, f"{name}: {kept}"
    assert len(after["readings"]) == len(before["readings"]) + len(release.NEW_READINGS)
    assert {(row[1] // 3_600_000, row[0]) for row in release.NEW_READINGS} <= waiting

    db = Database.open(path)  # and forward again
    assert db.read_now(release.read) == after
    assert db.read_now(undelivered) == waiting
    _knows_all(db, after)
    db.close_now()
    assert verify(path) == []


@released
def test_what_it_did_not_deliver_it_still_can_after_the_rollback(
    tmp_path: Path, dump: str, release: ModuleType
) -> None:
    path = tmp_path / "data" / "alert_state.db"
    load(dump, path)
    Database.open(path).close_now()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        assert release.ship(old) > 0
        assert undelivered(old) == set()
        release.append(old, release.NEW_READINGS[:1])
        assert len(undelivered(old)) == 1
    db = Database.open(path)
    assert len(db.read_now(undelivered)) == 1
    db.close_now()


def _knows_all(db: Database, rows: dict[str, list[tuple[object, ...]]]) -> None:
    """Today's functions see what the release's own statements see."""
    known = [reading(row) for row in rows["readings"]]
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
    return FORBIDDEN.findall(re.sub(r"--[^\n]*", "", sql))


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
