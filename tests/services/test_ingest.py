"""The path from a publish to the disk and back (decisions 8–10, 29, 36; S0-060, S0-061, S0-083, S0-101)."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gateway.core.messages import RawMessage, Reason
from gateway.services import ingest as ingest_module
from gateway.store import dead_letters
from gateway.store.database import Database
from tests.services.ingest_rig import NOW_MS, Rig, until, with_rig


def test_nothing_is_acknowledged_before_its_commit(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.publish(minute=0)
        rig.publish(minute=1)
        assert rig.receipts.settled == []
        await rig.ingest.drain()
        assert rig.receipts.settled == [1, 2]
        assert [row[1] for row in rig.stored()] == ["2025-11-25T14:00:00Z", "2025-11-25T14:01:00Z"]

    rig = with_rig(tmp_path / "a.db", work)
    assert len(rig.committed) == 2
    assert rig.database.commits >= 1


def test_a_full_batch_and_a_waiting_connection_do_not_wait_for_the_window(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        for minute in range(4):
            rig.publish(minute=minute)
        await until(lambda: len(rig.receipts.settled) == 4)  # by size
        rig.publish(minute=5)
        rig.ingest.hurry()
        await until(lambda: len(rig.receipts.settled) == 5)  # by a connection that waits

    with_rig(tmp_path / "a.db", work, commit_window_s=3600.0, batch_max=4)


def test_the_same_instant_again_is_skipped_and_acknowledged(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        rig.publish(temperature=38.5)
        rig.publish(temperature=38.5)
        await rig.ingest.drain()
        rig.publish(temperature=39.0)
        await rig.ingest.drain()
        rig.publish(timestamp="2025-11-25T15:00:00+01:00")

    rig = with_rig(tmp_path / "a.db", work)
    stats = rig.ingest.stats
    assert (stats.total, stats.valid, stats.stored, stats.duplicates, stats.conflicts) == (4, 4, 1, 3, 1)
    assert rig.receipts.settled == [1, 2, 3, 4]
    assert [reading.temperature_c for reading in rig.committed] == [38.5]


def test_a_rejected_message_is_logged_kept_and_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    letters: list[Any] = []

    async def work(rig: Rig) -> None:
        rig.publish("COW_2", temperature=None)
        await rig.ingest.drain()
        letters.extend(await rig.database.read(lambda db: dead_letters.recent(db, 10)))

    rig = with_rig(tmp_path / "a.db", work)
    assert "Missing required fields for cow_id=COW_2: temperature" in caplog.messages
    assert [(x.reason, x.cow_id, x.topic) for x in letters] == [
        (Reason.MISSING_FIELD, "COW_2", "artemis/sensors/COW_2")
    ]
    assert rig.receipts.settled == [1]
    assert [x.reason for x in rig.rejected] == [Reason.MISSING_FIELD]


def test_a_refused_topic_becomes_a_dead_letter(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        message = RawMessage("test/nosubscribe", b"x", "client", NOW_MS, 1.0, 1)
        rig.ingest.refuse(message, "the topic is denied", rig.receipts.new())

    rig = with_rig(tmp_path / "a.db", work)
    assert rig.receipts.settled == [1]
    assert rig.ingest.stats.rejected_by_reason == {Reason.TOPIC_REFUSED: 1}


def test_while_the_store_cannot_write_nothing_is_acknowledged_and_nothing_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "RETRY_S", 0.01)
    blocker = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)

    async def work(rig: Rig) -> None:
        blocker.execute("BEGIN IMMEDIATE")
        rig.publish(minute=1)
        await until(lambda: bool(rig.store_states))
        assert rig.receipts.settled == []
        blocker.execute("ROLLBACK")
        await rig.ingest.drain()

    try:
        monkeypatch.setattr(Database.open.__func__, "__kwdefaults__", {"timeout_s": 0.05})
        rig = with_rig(tmp_path / "a.db", work)
    finally:
        blocker.close()
    assert rig.receipts.settled == [1]
    assert rig.ingest.stats.storage_errors == 1
    assert rig.ingest.stats.stored == 1
    assert rig.store_states[0] == "database is locked"
    assert rig.store_states[-1] is None
    assert "Database insertion failure: database is locked" in caplog.messages


def test_a_flood_at_qos_0_is_bounded_and_counted(tmp_path: Path) -> None:
    async def work(rig: Rig) -> None:
        for minute in range(5):
            rig.publish(minute=minute, qos=0)
        for minute in range(5, 8):
            rig.publish(minute=minute, qos=1)

    rig = with_rig(tmp_path / "a.db", work, commit_window_s=3600.0, queue_max=3)
    assert rig.ingest.stats.flood_dropped == 2
    assert rig.ingest.stats.stored == 6
    assert sorted(rig.receipts.settled) == list(range(1, 9))


def test_ghost_animals_are_bounded_also_over_a_restart(tmp_path: Path) -> None:
    async def two(rig: Rig) -> None:
        for cow_id in ("A", "B", "C", "A"):
            rig.publish(cow_id, minute=rig.ingest.stats.total)

    async def again(rig: Rig) -> None:
        rig.publish("B", minute=30)
        rig.publish("D", minute=31)

    rig = with_rig(tmp_path / "a.db", two, animals_max=2)
    assert rig.ingest.stats.rejected_by_reason == {Reason.TOO_MANY_ANIMALS: 1}
    rig = with_rig(tmp_path / "a.db", again, animals_max=2)
    assert rig.ingest.stats.rejected_by_reason == {Reason.TOO_MANY_ANIMALS: 1}
    assert rig.ingest.stats.stored == 1


def test_a_dropped_optional_field_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(rig: Rig) -> None:
        rig.publish(sxg=9000, state="flying")

    rig = with_rig(tmp_path / "a.db", work)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["Dropped optional fields for cow_id=COW_1: sxg=9000, state=flying"]
    assert (rig.ingest.stats.valid, rig.ingest.stats.stored, rig.ingest.stats.trimmed) == (1, 1, 1)


def test_the_statistics_line_comes_after_a_moment_and_then_while_messages_flow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ingest_module, "STATS_FIRST_S", 0.02)
    monkeypatch.setattr(ingest_module, "STATS_EVERY_S", 0.05)

    def lines() -> int:
        return sum(line.startswith("Message stats") for line in caplog.messages)

    async def work(rig: Rig) -> None:
        rig.publish(minute=1)
        await until(lambda: lines() == 1)
        rig.publish(minute=2)
        await until(lambda: lines() == 2)

    with_rig(tmp_path / "a.db", work)
    found = [line for line in caplog.messages if line.startswith("Message stats")]
    one = "Message stats: total=1, valid=1, invalid=0, stored=1, duplicates=0, storage_errors=0"
    assert found[0] == one
    assert found[1] == one.replace("=1", "=2")
    assert len(found) == 3  # the last at stop (S0-076)
