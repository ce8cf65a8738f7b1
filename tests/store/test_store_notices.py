from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.core.alerts import Alert, State
from gateway.core.day_summary import Raised
from gateway.core.outbox import message_id
from gateway.core.readings import Reading
from gateway.core.severity import Severity
from gateway.store import alerts, days, notices, outbox, readings
from gateway.store.database import Database
from gateway.store.notices import DIGEST, SENT, Notice

T0_MS = 1_764_081_000_000


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of its own to a fresh store."""
    database = Database.open(path)
    connection = sqlite3.connect(path)
    yield connection
    connection.close()
    database.close_now()


def notice(seq: int, address: str = "a", outcome: str = SENT, at_ms: int = T0_MS) -> Notice:
    return Notice("sms", seq, "Anna", outcome, at_ms, 17, address)


def test_a_channel_without_a_cursor_begins_at_the_end_of_the_log(db: sqlite3.Connection) -> None:
    for _ in range(3):
        outbox.append(db, "alert", b"{}", T0_MS)
    assert notices.begin(db, "notify:sms") == 3
    outbox.append(db, "alert", b"{}", T0_MS)
    assert notices.begin(db, "notify:sms") == 3, "from now on the cursor is kept"
    assert notices.begin(db, "notify:email") == 4


def test_a_window_is_the_oldest_and_the_newest(db: sqlite3.Connection) -> None:
    for _ in range(20):
        outbox.append(db, "alert", b"{}", T0_MS)
    found = notices.window(db, 2, 3)
    assert [event.seq for event in found.events] == [3, 4, 5, 18, 19, 20]
    assert (found.until_seq, found.more) == (5, True)
    close = notices.window(db, 15, 3)
    assert [event.seq for event in close.events] == [16, 17, 18, 19, 20]
    whole = notices.window(db, 17, 9)
    assert [event.seq for event in whole.events] == [18, 19, 20]
    assert (whole.until_seq, whole.more) == (20, False)
    assert notices.window(db, 20, 3) == notices.Window((), 20, more=False)


def test_what_is_noted_is_done_and_noting_it_again_changes_nothing(db: sqlite3.Connection) -> None:
    notices.add(db, [notice(1), notice(2, "b", DIGEST)])
    notices.add(db, [notice(1, at_ms=T0_MS + 1)])
    assert notices.done(db, "sms", 0) == {(1, "a"), (2, "b")}
    assert notices.done(db, "sms", 1) == {(2, "b")}
    assert notices.done(db, "email", 0) == set()
    assert notices.of_alert(db, 17) == [notice(1), notice(2, "b", DIGEST)]


def test_a_digest_counts_as_one_letter(db: sqlite3.Connection) -> None:
    notices.add(
        db, [notice(1, outcome=DIGEST), notice(2, outcome=DIGEST), notice(3), notice(4, at_ms=T0_MS - 1)]
    )
    assert notices.letters_since(db, "sms", T0_MS - 1) == [("a", T0_MS)]


def test_the_day_is_counted(db: sqlite3.Connection) -> None:
    readings.append(
        db, [Reading(cow, T0_MS + at, 38.5, 0.1, 0.2, 0.9) for cow in "AB" for at in (-1, 0, 60_000)]
    )
    alert = Alert(0, "A", "fever", 1, Severity.WARNING, State.ACTIVE, T0_MS, T0_MS, T0_MS, T0_MS, 1.0, "hot")
    alerts.save(db, alert, None)
    alerts.save(db, msgspec.structs.replace(alert, subject="B", kind="silence", raised_ms=T0_MS - 1), None)
    found = days.summarise(db, T0_MS, T0_MS + 60_000)
    assert found.raised == (Raised("warning", "fever", 1),)
    assert (found.animals_n, found.readings_n, found.silent) == (2, 2, ("B",))
    assert [event.subject for event in found.open_now] == ["A", "B"]


def test_summary_and_mark_are_one(db: sqlite3.Connection) -> None:
    assert days.done_day(db) is None
    days.append(db, "2025-11-25", b"{}", T0_MS)
    assert days.done_day(db) == "2025-11-25"
    (event,) = outbox.after(db, 0, 10)
    assert event.kind == "summary"
    assert message_id("g", "e", event.seq) == "g:e:1"
