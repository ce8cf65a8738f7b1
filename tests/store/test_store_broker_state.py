"""What the broker keeps over a restart: tables, and rows that somebody else has written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.broker_state import (
    BrokerState,
    Change,
    Done,
    IdReleased,
    IdTaken,
    KeptSession,
    Message,
    Queued,
    Received,
    Retained,
    SessionForgotten,
    SessionSeen,
    StateBounds,
    Subscribed,
    Unsubscribed,
    Waiting,
)
from gateway.store import broker_state
from gateway.store.broker_state import NUMBER_MAX, SEEN_STEP_MS
from gateway.store.database import Database
from gateway.store.integrity import verify
from gateway.store.migrations import migrate, migrations
from gateway.store.restore import restore

T0 = 1_764_039_000_000
WIDE = StateBounds(
    sessions=100, filters=100, waiting=100, waiting_bytes=10_000, ids=100, retained=100, retained_bytes=10_000
)


def message(
    payload: bytes = b"x", topic: str = "barn/door", qos: int = 1, *, retain: bool = False
) -> Message:
    return Message(topic, payload, qos, retain)


def retained(topic: str, payload: bytes = b"open", qos: int = 1) -> Retained:
    return Retained(Message(topic, payload, qos, retain=True))


@pytest.fixture
def con() -> Iterator[sqlite3.Connection]:
    with closing(fresh()) as connection:
        yield connection


def fresh() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, migrations())
    return connection


def load(db: sqlite3.Connection, **bounds: int) -> BrokerState:
    return broker_state.load(db, msgspec.structs.replace(WIDE, **bounds))


TABLET = (
    SessionSeen("tablet", T0),
    Subscribed("tablet", "artemis/alerts/#", 1),
    Subscribed("tablet", "barn/+", 2),
    Queued("tablet", 1, message(b"one")),
    Queued("tablet", 2, message(b"two", qos=2, retain=True)),
    Queued("tablet", 10, message(b"ten")),
    Received("tablet", 2),
    IdTaken("tablet", 65_535),
    retained("barn/door"),
    retained("barn/Gänge/⛧", b"\x00\xff", qos=0),
)
"""One of everything."""


def test_everything_comes_back_as_it_was_left(con: sqlite3.Connection) -> None:
    broker_state.apply(con, TABLET)
    assert load(con) == BrokerState(
        sessions=(
            KeptSession(
                "tablet",
                {"artemis/alerts/#": 1, "barn/+": 2},
                (
                    Waiting(1, message(b"one")),
                    Waiting(2, message(b"two", qos=2, retain=True), received=True),
                    Waiting(10, message(b"ten")),
                ),
                frozenset({65_535}),
                T0,
            ),
        ),
        retained=(
            message(b"open", retain=True),
            message(b"\x00\xff", "barn/Gänge/⛧", 0, retain=True),
        ),
    )


def test_each_change_is_taken_back_by_its_opposite(con: sqlite3.Connection) -> None:
    broker_state.apply(con, TABLET)
    broker_state.apply(
        con,
        [
            Unsubscribed("tablet", "barn/+"),
            Subscribed("tablet", "artemis/alerts/#", 0),
            Done("tablet", 1),
            IdReleased("tablet", 65_535),
            retained("barn/Gänge/⛧", b""),
            retained("barn/door", b"shut", qos=2),
        ],
    )
    state = load(con)
    (tablet,) = state.sessions
    assert tablet.filters == {"artemis/alerts/#": 0}
    assert [one.number for one in tablet.waiting] == [2, 10]
    assert tablet.received_ids == frozenset()
    assert state.retained == (message(b"shut", qos=2, retain=True),)
    broker_state.apply(con, [SessionForgotten("tablet"), SessionForgotten("nobody")])
    assert load(con).sessions == ()
    for table in ("broker_filters", "broker_waiting", "broker_received"):
        assert con.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_changes_of_a_session_that_nobody_knows_are_nothing(con: sqlite3.Connection) -> None:
    broker_state.apply(con, [Queued("ghost", 1, message()), Subscribed("ghost", "#", 1), IdTaken("ghost", 1)])
    broker_state.apply(con, [Received("ghost", 1), Done("ghost", 1), Unsubscribed("ghost", "#")])
    assert load(con) == BrokerState()


def test_sessions_come_back_with_the_longest_idle_first(con: sqlite3.Connection) -> None:
    hours = {"new": 9, "old": 1, "middle": 5}
    broker_state.apply(con, [SessionSeen(name, T0 + h * SEEN_STEP_MS) for name, h in hours.items()])
    broker_state.apply(con, [SessionSeen("old", T0 + 20 * SEEN_STEP_MS)])
    assert [one.client_id for one in load(con).sessions] == ["middle", "new", "old"]


def test_what_is_said_again_writes_nothing(con: sqlite3.Connection) -> None:
    broker_state.apply(con, TABLET)
    before = con.total_changes
    again = [
        SessionSeen("tablet", T0 + SEEN_STEP_MS - 1),  # a collar that wakes every minute
        SessionSeen("tablet", T0 - SEEN_STEP_MS + 1),
        Subscribed("tablet", "barn/+", 2),  # clients subscribe anew whenever they connect
        Received("tablet", 2),
        IdTaken("tablet", 65_535),
        retained("barn/door"),  # a state that is published again
        retained("barn/nothing", b""),
        Done("tablet", 99),
    ]
    for change in again:
        broker_state.apply(con, [change])
    assert con.total_changes == before


def test_seen_is_true_to_the_hour_also_after_the_clock_was_set_back(con: sqlite3.Connection) -> None:
    seen = [T0, T0 + 10, T0 + SEEN_STEP_MS - 1, T0 + SEEN_STEP_MS, T0 - 40 * SEEN_STEP_MS, T0 + 1]
    for seen_ms in seen:
        broker_state.apply(con, [SessionSeen("tablet", seen_ms)])
        assert abs(load(con).sessions[0].seen_ms - seen_ms) < SEEN_STEP_MS


# Any sequence --------------------------------------------------------------------------------------


class Model:
    """The same in plain Python, one change after the other."""

    def __init__(self) -> None:
        self.sessions: dict[str, KeptSession] = {}
        self.retained: dict[str, Message] = {}

    def apply(self, change: Change) -> None:
        if isinstance(change, Retained):
            self.retained.pop(change.message.topic, None)
            if change.message.payload:
                self.retained[change.message.topic] = change.message
            return
        name = change.client_id
        if isinstance(change, SessionSeen):
            held = self.sessions.get(name) or KeptSession(name, {}, (), frozenset(), 0)
            self.sessions[name] = msgspec.structs.replace(held, seen_ms=change.seen_ms)
        elif isinstance(change, SessionForgotten):
            self.sessions.pop(name, None)
        elif name in self.sessions:
            self.sessions[name] = self._changed(self.sessions[name], change)

    def _changed(self, held: KeptSession, change: Change) -> KeptSession:
        filters, waiting, ids = (
            dict(held.filters),
            {one.number: one for one in held.waiting},
            held.received_ids,
        )
        match change:
            case Subscribed(topic_filter=topic_filter, qos=qos):
                filters[topic_filter] = qos
            case Unsubscribed(topic_filter=topic_filter):
                filters.pop(topic_filter, None)
            case Queued(number=number, message=queued):
                waiting[number] = Waiting(number, queued)
            case Received(number=number) if number in waiting:
                waiting[number] = msgspec.structs.replace(waiting[number], received=True)
            case Done(number=number):
                waiting.pop(number, None)
            case IdTaken(packet_id=packet_id):
                ids |= {packet_id}
            case IdReleased(packet_id=packet_id):
                ids -= {packet_id}
        ordered = tuple(waiting[number] for number in sorted(waiting))
        return KeptSession(held.client_id, filters, ordered, ids, held.seen_ms)

    def state(self) -> tuple[dict[str, KeptSession], dict[str, Message]]:
        return self.sessions, self.retained


def found(db: sqlite3.Connection) -> tuple[dict[str, KeptSession], dict[str, Message]]:
    state = load(db)
    assert state.left_out == 0
    return {one.client_id: one for one in state.sessions}, {one.topic: one for one in state.retained}


_name = st.sampled_from(["a", "b"])
_number = st.integers(0, 4)
_packet_id = st.integers(1, 3)
_filter = st.sampled_from(["#", "barn/+", "$x/#"])
_message = st.builds(
    Message, st.just("barn/door"), st.binary(max_size=3), st.sampled_from([1, 2]), st.booleans()
)
_change = st.one_of(
    st.builds(SessionSeen, _name, st.integers(1, 50).map(lambda n: T0 + n * SEEN_STEP_MS)),
    st.builds(SessionForgotten, _name),
    st.builds(Subscribed, _name, _filter, st.integers(0, 2)),
    st.builds(Unsubscribed, _name, _filter),
    st.builds(Queued, _name, _number, _message),
    st.builds(Received, _name, _number),
    st.builds(Done, _name, _number),
    st.builds(IdTaken, _name, _packet_id),
    st.builds(IdReleased, _name, _packet_id),
    st.builds(retained, st.sampled_from(["x", "y"]), st.sampled_from([b"", b"1", b"2"])),
)
_any = st.lists(_change, max_size=40)


def as_a_broker_says_it(changes: Sequence[Change]) -> list[Change]:
    """Each session begins with a SessionSeen and counts its messages; those of others are left out."""
    said: list[Change] = []
    queued: dict[str, int] = {}
    for change in changes:
        if isinstance(change, Retained):
            said.append(change)
        elif isinstance(change, SessionSeen):
            queued.setdefault(change.client_id, 0)
            said.append(change)
        elif change.client_id in queued:
            if isinstance(change, Queued):
                queued[change.client_id] += 1
                change = msgspec.structs.replace(change, number=queued[change.client_id])  # noqa: PLW2901
            elif isinstance(change, SessionForgotten):
                del queued[change.client_id]
            said.append(change)
    return said


@settings(max_examples=250, deadline=None)
@given(_any.map(as_a_broker_says_it), st.data())
def test_any_changes_in_any_batches_leave_what_they_say(changes: list[Change], data: st.DataObject) -> None:
    """One batch or many, and each of them once or twice (a commit whose answer was lost)."""
    model = Model()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(changes)), max_size=4)))
    with closing(fresh()) as db:
        for start, end in zip([0, *cuts], [*cuts, len(changes)], strict=True):
            for _ in range(data.draw(st.integers(1, 2))):
                broker_state.apply(db, changes[start:end])
            for change in changes[start:end]:
                model.apply(change)
            assert found(db) == model.state()


@settings(max_examples=100, deadline=None)
@given(_any)
def test_no_sequence_whatever_makes_a_commit_fail(changes: list[Change]) -> None:
    with closing(fresh()) as db:
        broker_state.apply(db, changes)
        broker_state.apply(db, list(reversed(changes)))
        found(db)


# Rows of others ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE broker_sessions SET client_id = X'00ff'",
        "UPDATE broker_sessions SET client_id = ''",
        "UPDATE broker_sessions SET client_id = CAST(X'ff61' AS TEXT)",
        "UPDATE broker_sessions SET seen_ms = 'yesterday'",
        "UPDATE broker_sessions SET seen_ms = -1",
    ],
)
def test_a_session_that_is_none_is_left_out_with_all_that_is_its(
    con: sqlite3.Connection, damage: str
) -> None:
    broker_state.apply(con, TABLET)
    con.execute(damage)
    state = load(con)
    assert (state.sessions, len(state.retained), state.left_out) == ((), 2, 1 + 2 + 3 + 1)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE broker_filters SET topic_filter = 'barn/#/x' WHERE qos = 2",
        "UPDATE broker_filters SET topic_filter = X'23' WHERE qos = 2",
        "UPDATE broker_filters SET qos = 3 WHERE qos = 2",
        "UPDATE broker_filters SET qos = 'two' WHERE qos = 2",
        "UPDATE broker_filters SET session = 77 WHERE qos = 2",
        "UPDATE broker_waiting SET qos = 0 WHERE number = 2",
        "UPDATE broker_waiting SET number = -2 WHERE number = 2",
        "UPDATE broker_waiting SET number = 'two' WHERE number = 2",
        f"UPDATE broker_waiting SET number = {NUMBER_MAX + 1} WHERE number = 2",
        "UPDATE broker_waiting SET received = 7 WHERE number = 2",
        "UPDATE broker_waiting SET received = 0.5 WHERE number = 2",
        "UPDATE broker_waiting SET retain = 7 WHERE number = 2",
        "UPDATE broker_waiting SET topic = 'barn/+' WHERE number = 2",
        "UPDATE broker_waiting SET topic = CAST(X'ff61' AS TEXT) WHERE number = 2",
        "UPDATE broker_waiting SET payload = 'text' WHERE number = 2",
        "UPDATE broker_waiting SET payload = CAST(X'ff61' AS TEXT) WHERE number = 2",
        "UPDATE broker_waiting SET session = CAST(X'ff61' AS TEXT) WHERE number = 2",
        "UPDATE broker_received SET packet_id = 0",
        "UPDATE broker_received SET packet_id = 65536",
        "UPDATE broker_received SET packet_id = 1.5",
        "UPDATE broker_received SET session = -3",
        "UPDATE broker_retained SET topic = 'a' || char(0) || 'b' WHERE qos = 0",
        "UPDATE broker_retained SET topic = '' WHERE qos = 0",
        "UPDATE broker_retained SET payload = X'' WHERE qos = 0",
        "UPDATE broker_retained SET payload = 12 WHERE qos = 0",
        "UPDATE broker_retained SET qos = 9 WHERE qos = 0",
    ],
)
def test_one_row_that_makes_no_sense_is_left_out_and_counted(con: sqlite3.Connection, damage: str) -> None:
    broker_state.apply(con, TABLET)
    con.execute(damage)
    state = load(con)
    (tablet,) = state.sessions
    rest = len(tablet.filters) + len(tablet.waiting) + len(tablet.received_ids) + len(state.retained)
    assert (rest, state.left_out) == (2 + 3 + 1 + 2 - 1, 1)


def test_a_number_at_the_end_of_the_integers_does_not_stop_the_messages_after_it(
    con: sqlite3.Connection,
) -> None:
    broker_state.apply(con, TABLET)
    con.execute(f"UPDATE broker_waiting SET number = {2**63 - 1} WHERE number = 10")
    con.execute(f"UPDATE broker_waiting SET number = {NUMBER_MAX} WHERE number = 2")
    numbers = [one.number for one in load(con).sessions[0].waiting]
    assert numbers == [1, NUMBER_MAX]
    broker_state.apply(con, [SessionSeen("tablet", T0), Queued("tablet", numbers[-1] + 1, message(b"next"))])
    broker_state.apply(con, [SessionForgotten("tablet")])
    assert con.execute("SELECT count(*) FROM broker_waiting").fetchone() == (0,)


def test_more_than_the_broker_ever_keeps_is_left_out(con: sqlite3.Connection) -> None:
    broker_state.apply(con, TABLET)
    broker_state.apply(con, [SessionSeen("older", T0 - 9 * SEEN_STEP_MS), Subscribed("older", "#", 0)])
    assert load(con).left_out == 0
    for bounds, gone in (
        ({"sessions": 1}, 2),
        ({"filters": 1}, 1),
        ({"waiting": 2}, 1),
        ({"waiting_bytes": 7}, 1),
        ({"ids": 0}, 1),
        ({"retained": 1}, 1),
        ({"retained_bytes": 5}, 1),
    ):
        state = load(con, **bounds)
        assert (bounds, state.left_out) == (bounds, gone)
        assert state.sessions[-1].client_id == "tablet", "the one that was seen last stays"


def test_a_new_session_inherits_nothing_from_one_that_damage_took(con: sqlite3.Connection) -> None:
    broker_state.apply(con, TABLET)
    con.execute("DELETE FROM broker_sessions")
    assert load(con).left_out == 2 + 3 + 1
    broker_state.apply(con, [SessionSeen("other", T0)])
    assert con.execute("SELECT id FROM broker_sessions").fetchone() == (1,), "the number of the lost one"
    assert load(con).sessions == (KeptSession("other", {}, (), frozenset(), T0),)
    assert load(con).left_out == 0


# In a store ----------------------------------------------------------------------------------------


def test_it_outlives_a_restart_and_verify_store_finds_it_whole(path: Path) -> None:
    db = Database.open(path)
    db.write_now(partial(broker_state.apply, changes=TABLET))
    before = db.read_now(load)
    db.close_now()
    db = Database.open(path)
    assert db.read_now(load) == before
    db.close_now()
    assert verify(path) == []


def test_verify_store_names_rows_of_a_session_that_is_not_there(path: Path) -> None:
    db = Database.open(path)
    db.write_now(partial(broker_state.apply, changes=TABLET))
    db.write_now(lambda c: c.execute("DELETE FROM broker_sessions"))
    db.close_now()
    assert [fault.what for fault in verify(path)] == [
        "2 filters of session 1, which is not in broker_sessions",
        "3 messages of session 1, which is not in broker_sessions",
        "1 packet ids of session 1, which is not in broker_sessions",
    ]


def test_a_restored_backup_knows_no_packet_ids_that_would_swallow_a_message(
    path: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backups" / "alert_state_20251125_020000.db"
    db = Database.open(backup)
    db.write_now(partial(broker_state.apply, changes=TABLET))
    before = db.read_now(load)
    db.close_now()
    path.parent.mkdir()
    restore(backup, path, path.parent / "farm.json", datetime(2025, 11, 26))  # noqa: DTZ001
    db = Database.open(path)
    after = db.read_now(load)
    db.close_now()
    assert before.sessions[0].received_ids == {65_535}
    assert after == msgspec.structs.replace(
        before, sessions=(msgspec.structs.replace(before.sessions[0], received_ids=frozenset()),)
    )
