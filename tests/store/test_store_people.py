"""Silences, notices and what an alert knows of who was told: salvaged, carried over, let go."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from gateway.core.alerts import Alert, State
from gateway.core.severity import Severity
from gateway.core.silences import Silence
from gateway.store import alerts, retention, silences
from gateway.store.database import Database
from gateway.store.integrity import verify
from tests.store import damage

T0 = 1_764_080_400_000
HOUR_MS = 3_600_000
FIXTURES = Path(__file__).parent / "fixtures"
HELD = Silence(1, "COW_002", "fever", T0, T0 + HOUR_MS, "Anna", "web", "treated")
ENDED = Silence(2, None, None, T0, T0 + HOUR_MS, "Jan", "cli", "works", T0 + 1000, "Eva (web)")
FEVER = Alert(
    id=1,
    subject="COW_001",
    kind="fever",
    episode=1,
    severity=Severity.CRITICAL,
    state=State.ACTIVE,
    onset_ms=T0,
    last_seen_ms=T0,
    raised_ms=T0,
    changed_ms=T0,
    confidence=0.9,
    sentence="40.6 °C",
    told_ms=T0 + 1,
    reminders=2,
    folded_into="herd/fever_herd/1",
)
NOTICES = [("sms", 1, "Anna", "sent", T0, 1, "+43"), ("mail", 9, "Jan", "digest", T0, None, "jan@farm")]


def write(db: sqlite3.Connection) -> None:
    for silence in (HELD, ENDED):
        silences.save(db, msgspec.structs.replace(silence, id=0))
    alerts.save(db, msgspec.structs.replace(FEVER, id=0), None)
    db.executemany(
        "INSERT INTO notices (channel, seq, contact, outcome, at_ms, alert_id, address)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        NOTICES,
    )


def notices(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    return db.execute(
        "SELECT channel, seq, contact, outcome, at_ms, alert_id, address FROM notices ORDER BY id"
    ).fetchall()


@pytest.fixture
def whole(path: Path) -> Path:
    """A store with something in it, which has a backup of the same day."""
    database = Database.open(path)
    database.write_now(write)
    database.close_now()
    backup = path.parent / "backups" / "alert_state_20251126_020000.db"
    backup.parent.mkdir()
    backup.write_bytes(path.read_bytes())
    return path


def salvaged(path: Path, table: str) -> Database:
    """The store that takes its place once the first page of a table is gone."""
    path.write_bytes(damage.zeroed(path.read_bytes(), damage.root_of(path, table)))
    database = Database.open(path, T0, path.parent / "backups")
    assert database.recovery is not None
    return database


def test_silences_and_notices_come_over_and_alerts_know_who_was_told(whole: Path) -> None:
    database = salvaged(whole, "hot_readings")
    assert database.read_now(lambda db: silences.recent(db, 9)) == [ENDED, HELD]
    assert database.read_now(silences.holding) == [HELD]
    assert database.read_now(alerts.open_alerts) == [FEVER]
    assert database.read_now(notices) == NOTICES
    database.close_now()
    assert verify(whole) == []


def test_a_silence_of_a_backup_is_not_taken_for_it_may_have_been_ended_since(whole: Path) -> None:
    database = salvaged(whole, "silences")
    assert database.identity.records is not None
    assert database.identity.records.lost["silences"]
    assert database.read_now(lambda db: silences.recent(db, 9)) == []
    assert database.read_now(notices) == NOTICES
    database.close_now()


def test_a_lost_notice_comes_from_the_backup(whole: Path) -> None:
    database = salvaged(whole, "notices")
    assert database.read_now(notices) == NOTICES
    database.close_now()


def test_the_alerts_of_an_earlier_version_come_over_with_defaults(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript((FIXTURES / "schema_0003.sql").read_text(encoding="utf-8"))
    database = salvaged(path, "hot_readings")
    (fever,) = database.read_now(alerts.open_alerts)
    assert (fever.subject, fever.told_ms, fever.reminders, fever.folded_into) == ("COW_001", 0, 0, "")
    assert database.read_now(silences.holding) == []
    database.close_now()


def test_what_was_sent_of_an_alert_and_old_silences_go_with_it(path: Path) -> None:
    database = Database.open(path)
    database.write_now(write)
    over = msgspec.structs.replace(FEVER, id=1, state=State.RESOLVED, ended_ms=T0 + 500)
    database.write_now(lambda db: alerts.save(db, over, None))
    assert database.write_now(lambda db: retention.drop_alerts(db, T0)) == 0
    assert database.read_now(notices) == NOTICES
    assert database.write_now(lambda db: retention.drop_alerts(db, T0 + 501)) == 1
    assert database.read_now(notices) == []
    assert database.read_now(lambda db: silences.recent(db, 9)) == [ENDED, HELD]
    database.write_now(lambda db: retention.drop_alerts(db, T0 + 1001))
    assert database.read_now(lambda db: silences.recent(db, 9)) == [HELD], "what holds stays"
    database.close_now()
    assert verify(path) == []
