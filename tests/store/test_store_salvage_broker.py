"""What the broker keeps, out of a damaged store: carried over as it was last, or not at all."""

from __future__ import annotations

from functools import partial
from pathlib import Path

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
from gateway.store import broker_state
from gateway.store.database import Database
from tests.store import damage

T0 = 1_764_080_400_000
KEPT = (
    SessionSeen("tablet", T0),
    Subscribed("tablet", "artemis/alerts/#", 1),
    Queued("tablet", 7, Message("barn/door", b"shut", 1, retain=False)),
    IdTaken("tablet", 9),
    Retained(Message("barn/door", b"open", 1, retain=True)),
)


@pytest.fixture
def whole(path: Path) -> Path:
    """A store with something in it, which has a backup of the same day."""
    database = Database.open(path)
    database.write_now(partial(broker_state.apply, changes=KEPT))
    database.close_now()
    backup = path.parent / "backups" / "alert_state_20251126_020000.db"
    backup.parent.mkdir()
    backup.write_bytes(path.read_bytes())
    return path


def reopened(path: Path, table: str) -> tuple[Database, BrokerState]:
    """The store that takes its place once the first page of a table is gone."""
    path.write_bytes(damage.zeroed(path.read_bytes(), damage.root_of(path, table)))
    database = Database.open(path)
    assert database.recovery is not None
    state = database.read_now(partial(broker_state.load, bounds=StateBounds(9, 9, 9, 999, 9, 9, 999)))
    database.close_now()
    return database, state


def test_sessions_come_over_but_no_packet_ids(whole: Path) -> None:
    """An id that its client has released since would swallow a message."""
    _, state = reopened(whole, "hot_readings")
    (tablet,) = state.sessions
    assert (tablet.client_id, tablet.filters, tablet.seen_ms) == ("tablet", {"artemis/alerts/#": 1}, T0)
    assert [(one.number, one.message.payload) for one in tablet.waiting] == [(7, b"shut")]
    assert tablet.received_ids == frozenset()
    assert [one.payload for one in state.retained] == [b"open"]
    assert state.left_out == 0


def test_those_of_a_backup_are_out_of_date_and_stay_there(whole: Path) -> None:
    database, state = reopened(whole, "broker_sessions")
    assert database.identity.records is not None
    assert database.identity.records.lost["broker_sessions"]
    assert (state.sessions, state.left_out) == ((), 0), "what waited for a lost session is not taken either"
    assert len(state.retained) == 1
