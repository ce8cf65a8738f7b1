"""What the broker keeps goes to disk with the readings, and is acknowledged after it (decision 29)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.core.broker_state import (
    BrokerState,
    Change,
    Done,
    Message,
    Queued,
    Retained,
    SessionSeen,
    StateBounds,
    Subscribed,
)
from gateway.core.messages import RawMessage
from gateway.services import ingest as ingest_module
from gateway.store import broker_state
from gateway.store.database import Connection, Database
from tests.services.ingest_rig import NOW_MS, Rig, until, with_rig

BOUNDS = StateBounds(99, 99, 99, 9999, 99, 99, 9999)


class Broker:
    """Notes changes, and hands them over when it is asked."""

    def __init__(self) -> None:
        self.noted: list[Change] = []
        self.asked = 0

    def note(self, *changes: Change) -> None:
        self.noted.extend(changes)

    def changes(self) -> Sequence[Change]:
        self.asked += 1
        handed, self.noted = self.noted, []
        return handed


class KeepingRig(Rig):
    """An Ingest over a real store, with a broker that has something to keep."""

    def __init__(self, path: Path, **limits: Any) -> None:
        self.broker = Broker()
        super().__init__(path, changes=self.broker.changes, **limits)

    def kept(self) -> BrokerState:
        return self.database.read_now(partial(broker_state.load, bounds=BOUNDS))


def queued(number: int) -> Queued:
    return Queued("tablet", number, Message("barn/door", b"%d" % number, 1, retain=False))


def numbers(state: BrokerState) -> list[int]:
    return [one.number for session in state.sessions for one in session.waiting]


def test_a_change_is_acknowledged_after_the_commit_that_holds_it(tmp_path: Path) -> None:
    async def work(rig: KeepingRig) -> None:
        rig.broker.note(SessionSeen("tablet", NOW_MS), Subscribed("tablet", "#", 1))
        rig.ingest.keep(rig.receipts.new())
        assert rig.receipts.settled == []
        assert rig.kept() == BrokerState()
        await until(lambda: rig.receipts.settled == [1])  # by the window, with no reading in it
        assert rig.kept().sessions[0].filters == {"#": 1}

    with_rig(tmp_path / "a.db", work, KeepingRig)


def test_a_change_that_nobody_waits_for_is_committed_as_well(tmp_path: Path) -> None:
    async def work(rig: KeepingRig) -> None:
        rig.broker.note(Retained(Message("barn/door", b"open", 1, retain=True)))
        rig.ingest.keep(None)
        await until(lambda: rig.database.commits > 0)
        assert [message.payload for message in rig.kept().retained] == [b"open"]

    rig = with_rig(tmp_path / "a.db", work, KeepingRig)
    assert rig.ingest.stats.total == 0


def test_readings_and_changes_of_one_window_are_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, bool]] = []
    apply = broker_state.apply

    def watched(db: Connection, changes: Sequence[Change]) -> None:
        apply(db, changes)
        (readings_n,) = db.execute("SELECT count(*) FROM hot_readings").fetchone()
        (sessions_n,) = db.execute("SELECT count(*) FROM broker_sessions").fetchone()
        seen.append((readings_n, sessions_n, db.in_transaction))

    monkeypatch.setattr(broker_state, "apply", watched)

    async def work(rig: KeepingRig) -> None:
        before = rig.database.commits
        rig.publish(minute=1)
        rig.broker.note(SessionSeen("tablet", NOW_MS))
        rig.ingest.keep(rig.receipts.new())
        rig.publish(minute=2)
        await rig.ingest.drain()
        assert rig.database.commits == before + 1
        assert rig.receipts.settled == [1, 2, 3], "in the order they came"

    with_rig(tmp_path / "a.db", work, KeepingRig, commit_window_s=3600.0)
    assert seen == [(2, 1, True)]


def test_a_commit_that_fails_leaves_neither_the_reading_nor_the_change(tmp_path: Path) -> None:
    async def work(rig: KeepingRig) -> None:
        await rig.database.write(
            lambda db: db.execute(
                "CREATE TRIGGER no BEFORE INSERT ON broker_sessions BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
            )
        )
        rig.publish(minute=1)
        rig.broker.note(SessionSeen("tablet", NOW_MS))
        rig.ingest.keep(rig.receipts.new())
        with pytest.raises(sqlite3.IntegrityError, match="no"):
            await rig.ingest.finish()
        assert rig.stored() == []
        assert rig.kept() == BrokerState()
        assert rig.receipts.settled == []

    with_rig(tmp_path / "a.db", work, KeepingRig, commit_window_s=3600.0)


def test_while_the_store_cannot_write_changes_wait_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "RETRY_S", 0.01)
    monkeypatch.setattr(Database.open.__func__, "__kwdefaults__", {"timeout_s": 0.05})
    blocker = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)

    async def work(rig: KeepingRig) -> None:
        blocker.execute("BEGIN IMMEDIATE")
        rig.broker.note(SessionSeen("tablet", NOW_MS), queued(1), queued(2))
        rig.ingest.keep(rig.receipts.new())
        await until(lambda: len(rig.store_states) > 1)
        rig.broker.note(Done("tablet", 1), queued(3))  # while the first are being tried again
        rig.ingest.keep(rig.receipts.new())
        rig.publish(minute=1)
        await until(lambda: len(rig.store_states) > 3)
        assert (rig.receipts.settled, rig.broker.asked) == ([], 1)
        blocker.execute("ROLLBACK")
        await rig.ingest.drain()
        assert rig.receipts.settled == [1, 2, 3]
        assert numbers(rig.kept()) == [2, 3]
        assert len(rig.stored()) == 1

    try:
        rig = with_rig(tmp_path / "a.db", work, KeepingRig)
    finally:
        blocker.close()
    assert rig.store_states[0] == "database is locked"
    assert rig.store_states[-1] is None


def test_receipts_of_changes_fill_a_batch_like_those_of_readings(tmp_path: Path) -> None:
    async def work(rig: KeepingRig) -> None:
        rig.broker.note(SessionSeen("tablet", NOW_MS))
        for number in range(3):
            rig.broker.note(queued(number))
            rig.ingest.keep(rig.receipts.new())
        rig.publish()
        await until(lambda: len(rig.receipts.settled) == 4)
        assert numbers(rig.kept()) == [0, 1, 2]

    with_rig(tmp_path / "a.db", work, KeepingRig, commit_window_s=3600.0, batch_max=4)


def test_draining_waits_for_changes_alone(tmp_path: Path) -> None:
    async def work(rig: KeepingRig) -> None:
        rig.broker.note(SessionSeen("tablet", NOW_MS))
        rig.ingest.keep(None)
        await rig.ingest.drain()
        assert [one.client_id for one in rig.kept().sessions] == ["tablet"]

    with_rig(tmp_path / "a.db", work, KeepingRig, commit_window_s=3600.0)


def test_what_the_broker_notes_on_closing_is_on_disk_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        rig = KeepingRig(tmp_path / "a.db", commit_window_s=3600.0)
        loop = asyncio.create_task(rig.ingest.run())
        await rig.ingest.drain()
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        rig.broker.note(SessionSeen("tablet", NOW_MS), queued(1))
        rig.ingest.keep(None)
        await rig.ingest.finish()
        assert numbers(rig.kept()) == [1]
        before = rig.database.commits
        await rig.ingest.finish()
        assert rig.database.commits == before, "nothing is left"
        await rig.database.close()

    asyncio.run(main())


@pytest.mark.parametrize("writes_again", [True, False])
def test_at_the_end_a_batch_that_waits_for_the_store_goes_before_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, writes_again: bool
) -> None:
    monkeypatch.setattr(Database.open.__func__, "__kwdefaults__", {"timeout_s": 0.05})

    async def main(blocker: sqlite3.Connection) -> None:
        rig = KeepingRig(tmp_path / "a.db")
        loop = asyncio.create_task(rig.ingest.run())
        blocker.execute("BEGIN IMMEDIATE")
        rig.broker.note(SessionSeen("tablet", NOW_MS), queued(1))
        rig.ingest.keep(rig.receipts.new())
        async with asyncio.timeout(20):
            await until(lambda: bool(rig.store_states))
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        rig.broker.note(queued(2))
        rig.ingest.keep(rig.receipts.new())
        if writes_again:
            blocker.execute("ROLLBACK")
        await rig.ingest.finish()
        assert rig.receipts.settled == ([1, 2] if writes_again else [])
        assert numbers(rig.kept()) == ([1, 2] if writes_again else [])
        await rig.database.close()

    blocker = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
    try:
        asyncio.run(main(blocker))
    finally:
        blocker.close()
    told = "The last changes of the broker were not stored: database is locked" in caplog.messages
    assert told is not writes_again


def test_a_refused_publish_and_what_the_broker_noted_of_it_are_one_commit(tmp_path: Path) -> None:
    """The broker notes the id before it hands the publish over, so its commit holds both."""

    async def work(rig: KeepingRig) -> None:
        rig.broker.note(SessionSeen("collar", NOW_MS))
        rig.ingest.refuse(RawMessage("test/x", b"x", "collar", NOW_MS, 1.0, 2), "denied", rig.receipts.new())
        await until(lambda: rig.receipts.settled == [1])
        assert [one.client_id for one in rig.kept().sessions] == ["collar"]

    with_rig(tmp_path / "a.db", work, KeepingRig)


def test_what_is_no_reading_is_committed_soon_but_not_for_ever(tmp_path: Path) -> None:
    """A client that is stopped by it goes on at once; the card's wear stays what the window makes it."""

    async def work(rig: KeepingRig) -> None:
        for number in range(ingest_module.SOON_BURST):
            rig.ingest.keep(rig.receipts.new())
            await until(lambda count=number: len(rig.receipts.settled) == count + 1)  # the window is a minute
        rig.ingest.keep(rig.receipts.new())
        rig.ingest.refuse(RawMessage("t", b"", "c", NOW_MS, 0.0, 1), "denied", rig.receipts.new())
        loop = asyncio.get_running_loop()
        waited_until_s = loop.time() + 5 * ingest_module.SOON_S
        await until(lambda: loop.time() > waited_until_s)
        assert len(rig.receipts.settled) == ingest_module.SOON_BURST

    with_rig(tmp_path / "a.db", work, KeepingRig, commit_window_s=60.0)


def test_a_lone_reading_waits_for_company_beside_it(tmp_path: Path) -> None:
    async def work(rig: KeepingRig) -> None:
        rig.publish(minute=1)
        loop = asyncio.get_running_loop()
        waited_until_s = loop.time() + 5 * ingest_module.SOON_S
        await until(lambda: loop.time() > waited_until_s)
        assert rig.receipts.settled == []
        rig.ingest.keep(rig.receipts.new())
        await until(lambda: rig.receipts.settled == [1, 2])  # and goes along

    with_rig(tmp_path / "a.db", work, KeepingRig, commit_window_s=60.0)
