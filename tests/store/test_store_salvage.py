"""A store that is damaged at rest: set aside, replaced at once, and salvaged row by row."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.alerts import Alert, State
from gateway.core.instants import HOUR_MS
from gateway.core.messages import DeadLetter, Reason
from gateway.core.readings import Reading
from gateway.core.severity import Severity
from gateway.errors import StoreError
from gateway.store import (
    alerts,
    dead_letters,
    journal,
    newest,
    opening,
    outbox,
    packing,
    quarantine,
    readings,
    rollups,
    slices,
)
from gateway.store.alerts import Transition
from gateway.store.database import Database
from gateway.store.opening import open_readonly
from gateway.store.salvage import Tally
from gateway.store.salvage_readings import PIECE_ROWS, Source, hour_ms, spans_ms
from tests.store import damage
from tests.store.damage import PAGE

T0 = 1_764_080_400_000  # 2025-11-25T14:20:00Z
NOW = 1_764_167_400_000  # 2025-11-26T14:30:00Z
BAD = "alert_state.db.bad-20251126T143000Z"
COWS, MINUTES = 40, 150


def reading_of(cow: int, minute: int) -> Reading:
    return Reading(
        cow_id=f"COW_{cow:03d}",
        timestamp_ms=T0 + 60_000 * minute,
        temperature_c=38 + (7 * cow + minute) % 100 / 100,
        fxa_g=cow / 1000,
        mya_g=minute / 1000,
        rza_g=-0.9,
        state=("lying", None, "grooming")[minute % 3],
        motion_intensity=None if minute % 2 else 0.5,
        received_ms=T0 + 60_000 * minute + cow,
    )


BATCH = [reading_of(cow, minute) for minute in range(MINUTES) for cow in range(COWS)]
ORIGINALS = {(reading.cow_id, reading.timestamp_ms): reading for reading in BATCH}


class Barn(NamedTuple):
    """A store at rest, before any damage."""

    data: bytes
    gateway_id: str
    epoch: str
    hot_root: int

    def __repr__(self) -> str:
        return f"Barn({len(self.data)} bytes)"

    def hot_leaves(self, data: bytes) -> dict[int, int]:
        return damage.leaves(data, self.hot_root)


@pytest.fixture(scope="module")
def barn(tmp_path_factory: pytest.TempPathFactory) -> Barn:
    path = tmp_path_factory.mktemp("barn") / "alert_state.db"
    database = Database.open(path)
    for n in range(0, len(BATCH), 500):
        database.write_now(partial(readings.append, readings=BATCH[n : n + 500]))
    database.write_now(write_records)
    database.close_now()
    return Barn(path.read_bytes(), database.gateway_id, database.epoch, damage.root_of(path, "hot_readings"))


def write_records(db: sqlite3.Connection) -> None:
    """An open alert, an ended one, messages behind and before a cursor, a dead letter, dirty slices."""
    for cow, state in (("COW_001", State.ACKNOWLEDGED), ("COW_002", State.RESOLVED)):
        alert = Alert(
            *(0, cow, "fever", 3, Severity.CRITICAL, state, T0, T0, T0, T0, 0.9, f"{cow}: 40.5 °C"),
            ended_ms=T0 if state is State.RESOLVED else None,
        )
        step = Transition(T0, "", "active", Severity.CRITICAL, "gateway", "automatic", "40.5 °C")
        alerts.save(db, alert, step)
    for n in range(5):
        outbox.append(db, "alert", b"{%d}" % n, T0)
    outbox.advance(db, "cloud", 3)
    dead_letters.add(
        db, [DeadLetter(T0, "artemis/sensors/x", b"\xff", "x", Reason.TOPIC_REFUSED, "no JSON", None)]
    )
    db.execute("DELETE FROM undelivered WHERE hour > ?", (T0 // 3_600_000,))


def lay(path: Path, data: bytes, *, used_before: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if used_before:
        path.with_name(path.name + ".lock").touch()


HOT = "hot_readings"


def salvage(database: Database) -> Tally:
    """All pieces of every damaged store, then of the newest backup for what was lost."""
    total = Tally()
    for name in database.salvage_sources:
        tally = Tally()
        for source in (
            Source.damaged(database.path.with_name(name), tally),
            Source.backup(database.backups, database.path, database.gateway_id, tally.lost),
        ):
            source.open()
            while (piece := source.next_piece()) is not None:
                database.write_now(piece)
            source.close()
        total.lost["hot_readings"] = [
            *total.lost.get("hot_readings", []),
            *tally.lost.get("hot_readings", []),
        ]
        total.count(
            "hot_readings",
            saved=tally.saved.get("hot_readings", 0),
            refused=tally.refused.get("hot_readings", 0),
        )
    return total


def stored(database: Database) -> dict[tuple[str, int], Reading]:
    rows = database.read_now(lambda db: newest.recent(db, None, 10**6))
    found = {(row.cow_id, row.timestamp_ms): row for row in rows}
    assert len(found) == len(rows)
    return found


def open_damaged(path: Path, data: bytes) -> Database:
    lay(path, data)
    return Database.open(path, NOW)


def hot_leaf(barn: Barn, share: float) -> int:
    """A leaf of the readings, by its place between the oldest (0) and the newest (1)."""
    numbers = list(barn.hot_leaves(barn.data))
    return numbers[round(share * (len(numbers) - 1))]


DAMAGES: dict[str, Callable[[Barn], bytes]] = {
    "truncated to 100 bytes": lambda barn: barn.data[:100],
    "truncated to one page": lambda barn: barn.data[:PAGE],
    "truncated to a quarter": lambda barn: barn.data[: len(barn.data) // PAGE // 4 * PAGE],
    "truncated in the middle of a page": lambda barn: barn.data[: len(barn.data) // 2 // PAGE * PAGE + 700],
    "last page missing": lambda barn: barn.data[:-PAGE],
    "last byte missing": lambda barn: barn.data[:-1],
    "oldest leaf zeroed": lambda barn: damage.zeroed(barn.data, hot_leaf(barn, 0)),
    "newest leaf zeroed": lambda barn: damage.zeroed(barn.data, hot_leaf(barn, 1)),
    "one leaf zeroed": lambda barn: damage.zeroed(barn.data, hot_leaf(barn, 0.5)),
    "every other leaf zeroed": lambda barn: damage.zeroed(barn.data, *list(barn.hot_leaves(barn.data))[::2]),
    "a run of leaves zeroed": lambda barn: damage.zeroed(barn.data, *list(barn.hot_leaves(barn.data))[9:19]),
    "a leaf of rubbish": lambda barn: damage.replaced(
        barn.data, hot_leaf(barn, 0.3), random.Random(5).randbytes(PAGE)
    ),
    "root of the readings zeroed": lambda barn: damage.zeroed(barn.data, barn.hot_root),
    "header zeroed": lambda barn: bytes(100) + barn.data[100:],
    "header of text": lambda barn: b"not a store " * 10 + barn.data[120:],
    "first page zeroed": lambda barn: bytes(PAGE) + barn.data[PAGE:],
    "NUL": lambda barn: bytes(len(barn.data)),
    "text": lambda _: b"garbage\n" * 999,
    "empty": lambda _: b"",
}
WITHOUT_NAMES = {"truncated to 100 bytes", "truncated to one page", "NUL", "text", "empty"}
"""Nothing of meta and alerts is left in these."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_store_is_kept_replaced_and_salvaged(path: Path, barn: Barn, name: str) -> None:
    data = DAMAGES[name](barn)
    database = open_damaged(path, data)
    try:
        recovery = database.recovery
        assert recovery is not None
        assert recovery.bad == path.with_name(BAD)
        assert database.epoch != barn.epoch
        assert (database.gateway_id == barn.gateway_id) == (name not in WITHOUT_NAMES)
        if name not in WITHOUT_NAMES:
            assert [(a.subject, a.state) for a in database.read_now(alerts.open_alerts)] == [
                ("COW_001", State.ACKNOWLEDGED)
            ]
        tally = salvage(database)
        found = stored(database)
        assert found.items() <= ORIGINALS.items()
        readable = sum(barn.hot_leaves(data if len(data) >= PAGE else b"").values())
        assert len(found) >= (readable if name not in WITHOUT_NAMES else 0)
        assert bool(tally.lost["hot_readings"]) == (len(found) < len(ORIGINALS))
    finally:
        database.close_now()
    assert recovery.bad.read_bytes() == data
    again = Database.open(path)  # and it stays a good store
    assert again.recovery is None
    assert again.epoch == database.epoch
    again.close_now()


@pytest.mark.parametrize("name", ["header zeroed", "header of text", "first page zeroed"])
def test_a_first_page_that_is_gone_costs_no_row(path: Path, barn: Barn, name: str) -> None:
    database = open_damaged(path, DAMAGES[name](barn))
    try:
        salvage(database)
        assert stored(database) == ORIGINALS
    finally:
        database.close_now()
    assert not list(path.parent.glob("*.view*"))


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, 1])
def test_one_damaged_page_costs_no_more_than_its_rows(path: Path, barn: Barn, share: float) -> None:
    leaf = hot_leaf(barn, share)
    database = open_damaged(path, damage.zeroed(barn.data, leaf))
    try:
        tally = salvage(database)
        missing = len(ORIGINALS) - len(stored(database))
        assert missing == barn.hot_leaves(barn.data)[leaf]
        assert len(tally.lost["hot_readings"]) == 1
    finally:
        database.close_now()


def test_records_are_there_before_anybody_asks(path: Path, barn: Barn) -> None:
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0.5)))
    try:
        episodes = database.read_now(alerts.latest_episodes)
        assert [(a.id, a.subject, a.episode, a.open) for a in episodes] == [
            (1, "COW_001", 3, True),
            (2, "COW_002", 3, False),
        ]
        assert [t.reason for t in database.read_now(lambda db: alerts.history(db, 1))] == ["40.5 °C"]
        assert database.read_now(lambda db: outbox.cursor(db, "cloud")) == 3
        assert [e.payload for e in database.read_now(lambda db: outbox.after(db, 3, 9))] == [b"{3}", b"{4}"]
        assert database.write_now(lambda db: outbox.append(db, "alert", b"", T0)) == 6
        assert database.read_now(dead_letters.count) == 1
        assert database.read_now(readings.animal_count) == COWS
    finally:
        database.close_now()


def test_what_was_delivered_is_not_sent_again(path: Path, barn: Barn) -> None:
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 1)))
    try:
        salvage(database)
        parts = database.write_now(lambda db: slices.claim(db, 10**6))
        assert {part.hour for part in parts} == {T0 // 3_600_000}
        assert len(parts) == COWS
    finally:
        database.close_now()


def test_animals_are_matched_by_name_and_what_arrived_meanwhile_wins(path: Path, barn: Barn) -> None:
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0.5)))
    try:
        first, other = reading_of(30, 7), reading_of(31, 8)
        newer = Reading("NEW", T0, 38.0, 0, 0, 1.0)
        changed = Reading(other.cow_id, other.timestamp_ms, 41.0, 0, 0, 1.0)
        database.write_now(lambda db: db.execute("DELETE FROM animals").rowcount)  # numbered anew
        database.write_now(lambda db: readings.append(db, [newer, first, changed]))
        salvage(database)
        found = stored(database)
        assert found.pop(("NEW", T0)) == newer
        assert found.pop((other.cow_id, other.timestamp_ms)) == changed
        assert found.items() <= ORIGINALS.items()
    finally:
        database.close_now()


def test_newest_readings_come_first_and_in_small_pieces(path: Path, barn: Barn) -> None:
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0)))
    try:
        source = Source.damaged(path.with_name(BAD), Tally())
        source.open()
        for minutes in range(1, 4):
            piece = source.next_piece()
            assert piece is not None
            assert database.write_now(piece) == PIECE_ROWS
            oldest = min(ts for _, ts in stored(database))
            assert oldest >= T0 + 60_000 * (MINUTES - 1 - minutes * PIECE_ROWS // COWS)
        source.close()
    finally:
        database.close_now()


def test_a_salvage_that_was_cut_off_goes_on_at_the_next_start(path: Path, barn: Barn) -> None:
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0.5)))
    source = Source.damaged(path.with_name(BAD), Tally())
    source.open()
    piece = source.next_piece()
    assert piece is not None
    database.write_now(piece)
    source.close()
    epoch = database.epoch
    database.close_now()
    database = Database.open(path)
    try:
        assert (database.recovery, database.epoch) == (None, epoch)
        assert database.salvage_sources == (BAD,)
        salvage(database)
        missing = len(ORIGINALS) - len(stored(database))
        assert missing == barn.hot_leaves(barn.data)[hot_leaf(barn, 0.5)]
        database.write_now(partial(quarantine.remember_sources, sources=()))
    finally:
        database.close_now()
    database = Database.open(path)
    assert database.salvage_sources == ()
    database.close_now()


def test_a_store_that_breaks_during_a_salvage_hands_it_on(path: Path, barn: Barn) -> None:
    open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0.5))).close_now()
    broken = bytearray(path.read_bytes())
    broken[18] = 7  # a format nobody writes
    path.write_bytes(broken)
    database = Database.open(path, NOW + 1000)
    try:
        assert database.salvage_sources == ("alert_state.db.bad-20251126T143001Z", BAD)
        assert database.gateway_id == barn.gateway_id
        salvage(database)
        assert len(stored(database)) > len(ORIGINALS) * 0.9
    finally:
        database.close_now()


def with_backup(path: Path, barn: Barn) -> Path:
    backup = path.parent / "backups" / "alert_state_20251126_020000.db"
    backup.parent.mkdir(parents=True)
    backup.write_bytes(barn.data)
    return backup


@pytest.mark.parametrize("name", ["NUL", "a run of leaves zeroed", "truncated to a quarter", "empty"])
def test_the_newest_backup_fills_what_the_damaged_file_could_not_give(
    path: Path, barn: Barn, name: str
) -> None:
    backup = with_backup(path, barn)
    (backup.parent / "alert_state_20251127_020000.db").write_bytes(barn.data[:-PAGE])  # newer, and broken
    database = open_damaged(path, DAMAGES[name](barn))
    try:
        assert database.gateway_id == barn.gateway_id
        assert len(database.read_now(alerts.open_alerts)) == 1
        salvage(database)
        assert stored(database) == ORIGINALS
    finally:
        database.close_now()


def test_the_backup_of_another_gateway_is_not_used(path: Path, barn: Barn, tmp_path: Path) -> None:
    other = Database.open(tmp_path / "other.db")
    other.close_now()
    backup = path.parent / "backups" / "alert_state_20251126_020000.db"
    backup.parent.mkdir(parents=True)
    shutil.copy(other.path, backup)
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0.5)))
    assert database.gateway_id == barn.gateway_id
    database.close_now()


def test_damaged_alerts_do_not_stop_the_start_and_come_from_the_backup(path: Path, barn: Barn) -> None:
    whole = path.parent / "whole.db"
    lay(whole, barn.data, used_before=False)
    root = damage.root_of(whole, "alert_episodes")
    data = damage.zeroed(barn.data, root)
    database = open_damaged(path, data)
    assert database.read_now(alerts.latest_episodes) == []
    assert database.identity.records is not None
    assert database.identity.records.lost["alert_episodes"]
    database.close_now()
    shutil.rmtree(path.parent)
    backup = with_backup(path, barn)
    shutil.copy(backup, backup.with_name("alert_state_by_hand.db"))  # nobody knows of when
    database = open_damaged(path, data)
    assert len(database.read_now(alerts.open_alerts)) == 1
    assert database.identity.from_backup == "alert_state_20251126_020000.db"
    database.close_now()


def test_an_alert_that_cannot_be_understood_is_left_behind(path: Path, barn: Barn) -> None:
    data = barn.data.replace(b"acknowledged", b"acknowl\xffdged")
    data = damage.zeroed(data, hot_leaf(barn, 0.5))
    database = open_damaged(path, data)
    assert [a.subject for a in database.read_now(alerts.latest_episodes)] == ["COW_002"]
    assert database.identity.records is not None
    assert database.identity.records.refused["alert_episodes"] == 1
    database.close_now()


# --- what is set aside, and what is left alone -----------------------------------------------------


def test_log_and_index_move_with_the_file_and_the_log_is_read(path: Path, barn: Barn) -> None:
    lay(path, barn.data)
    database = Database.open(path)
    late = Reading("LATE", T0 + 10**9, 38.5, 0, 0, 1.0)
    database.write_now(lambda db: readings.append(db, [late]))
    log = path.with_name(path.name + "-wal")
    saved = log.read_bytes()
    database.close_now()
    path.write_bytes(damage.zeroed(barn.data, hot_leaf(barn, 0.5)))
    log.write_bytes(saved)
    database = Database.open(path, NOW)
    try:
        assert path.with_name(BAD + "-wal").read_bytes() == saved
        salvage(database)
        assert ("LATE", late.timestamp_ms) in stored(database)
    finally:
        database.close_now()


@pytest.mark.parametrize("left", [None, b""])
def test_a_log_without_its_store_is_kept_and_read(path: Path, barn: Barn, left: bytes | None) -> None:
    database = Database.open(path)
    database.write_now(lambda db: readings.append(db, [reading_of(1, 1)]))
    log = path.with_name(path.name + "-wal")
    saved = log.read_bytes()
    database.close_now()
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    log.write_bytes(saved)
    database = Database.open(path, NOW)
    try:
        assert path.with_name(BAD + "-wal").read_bytes() == saved
        salvage(database)
        assert list(stored(database).values()) == [reading_of(1, 1)]
        assert path.with_name(BAD + "-wal").read_bytes() == saved
    finally:
        database.close_now()


@pytest.mark.parametrize("data", [b"garbage\n" * 999, bytes(9000)], ids=["text", "NUL"])
def test_a_file_no_gateway_has_used_is_never_moved(path: Path, data: bytes) -> None:
    lay(path, data, used_before=False)
    for _ in range(2):  # the first refusal must not look like a gateway's use
        with pytest.raises(StoreError, match=r"alert_state\.db") as caught:
            Database.open(path)
        assert type(caught.value) is StoreError
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == data


@pytest.mark.parametrize("used_before", [True, False])
def test_a_database_of_another_program_is_never_moved(path: Path, *, used_before: bool) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id = 77")
        db.execute("CREATE TABLE sensor_data (cow_id TEXT)")
    data = path.read_bytes()
    lay(path, data, used_before=used_before)
    with pytest.raises(StoreError, match="another program") as caught:
        Database.open(path)
    assert type(caught.value) is StoreError
    assert path.read_bytes() == data
    assert not list(path.parent.glob("*.bad-*"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("PRAGMA user_version = 999", "newer gateway"),
        ("PRAGMA user_version = 0", "says version 0"),
        ("PRAGMA application_id = 5", "application id"),
        ("DROP TABLE hot_readings", "no such table"),
    ],
)
def test_a_store_of_a_version_that_cannot_be_used_is_set_aside(
    path: Path, barn: Barn, change: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "CHECK_BYTES_MAX", 0)
    lay(path, barn.data)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(change)
    database = Database.open(path, NOW)
    try:
        assert database.recovery is not None
        assert why in database.recovery.why
        salvage(database)
        assert len(stored(database)) == (0 if "DROP" in change else len(ORIGINALS))
    finally:
        database.close_now()


def test_three_damaged_stores_are_kept_and_none_that_is_not_salvaged_yet(path: Path, barn: Barn) -> None:
    data = damage.zeroed(barn.data, hot_leaf(barn, 0.5))
    for n in range(5):
        path.unlink(missing_ok=True)
        lay(path, data)
        Database.open(path, NOW + 1000 * n).close_now()
        path.with_name(quarantine.bad_names(path)[0] + "-wal").touch()
    names = quarantine.bad_names(path)
    assert len(names) == 5  # the fresh copy above knew nothing of earlier salvages
    assert quarantine.prune(path, unfinished=tuple(names)) == []
    assert quarantine.prune(path, unfinished=(names[4],)) == [names[3]]
    assert quarantine.prune(path, unfinished=()) == [names[4]]
    assert quarantine.bad_names(path) == names[: quarantine.BAD_SETS_MAX]
    assert sorted(p.name for p in path.parent.glob("*.bad-*-wal")) == sorted(f"{n}-wal" for n in names[:3])


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_a_power_cut_while_files_are_set_aside_is_taken_up(path: Path, barn: Barn, moved: int) -> None:
    """The note is written first; then log, index and file move one after the other."""
    data = damage.zeroed(barn.data, hot_leaf(barn, 0.5))
    lay(path, data)
    parts = ("-wal", "-shm", "")
    for part in parts[:2]:
        path.with_name(path.name + part).write_bytes(b"x")
    note = quarantine._Note("is torn", bad=BAD)
    quarantine._write_note(path, note)
    for part in parts[:moved]:
        path.with_name(path.name + part).rename(path.with_name(BAD + part))
    database = Database.open(path, NOW + 99_000)
    try:
        assert database.recovery is not None
        assert database.recovery.bad == path.with_name(BAD)
        assert database.recovery.bad.read_bytes() == data
        assert database.salvage_sources == (BAD,)
        assert not path.with_name(path.name + ".damaged").exists()
    finally:
        database.close_now()


def test_a_power_cut_after_the_new_store_was_made_does_not_move_that(path: Path, barn: Barn) -> None:
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0.5)))
    database.write_now(lambda db: readings.append(db, [Reading("NEW", T0, 38.0, 0, 0, 1.0)]))
    database.close_now()
    quarantine._write_note(path, quarantine._Note("is torn", bad=BAD))
    database = Database.open(path, NOW + 99_000)
    try:
        assert ("NEW", T0) in stored(database)
        assert quarantine.bad_names(path) == [BAD]
        assert len(database.read_now(alerts.open_alerts)) == 1
    finally:
        database.close_now()


# --- damage met while running ----------------------------------------------------------------------


def test_damage_met_while_running_leads_to_one_quarantine_and_no_loop(
    path: Path, barn: Barn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "CHECK_BYTES_MAX", 0)  # as if it were too big to be checked whole
    database = open_damaged(path, damage.zeroed(barn.data, hot_leaf(barn, 0.5)))
    assert database.recovery is None
    with pytest.raises(StoreError, match="malformed"):
        stored(database)
    database.close_now()
    assert path.with_name(path.name + ".damaged").exists()
    database = Database.open(path, NOW)
    assert database.recovery is not None
    assert database.gateway_id == barn.gateway_id
    salvage(database)
    missing = len(ORIGINALS) - len(stored(database))
    assert missing == barn.hot_leaves(barn.data)[hot_leaf(barn, 0.5)]
    database.close_now()
    database = Database.open(path)
    assert database.recovery is None
    database.close_now()


def test_the_note_of_a_store_that_was_replaced_by_hand_is_dropped(path: Path, barn: Barn) -> None:
    lay(path, barn.data)
    quarantine.note_damage(path, "another epoch", "malformed")
    database = Database.open(path)
    assert (database.recovery, database.epoch) == (None, barn.epoch)
    assert not path.with_name(path.name + ".damaged").exists()
    database.close_now()


# --- the log that is missing -----------------------------------------------------------------------


def crashed(path: Path, words: str) -> None:
    path.with_name(path.name + ".lock").write_text(words, encoding="ascii")


def test_a_crash_whose_log_is_gone_gets_a_new_epoch_in_place(path: Path, barn: Barn) -> None:
    lay(path, barn.data)
    crashed(path, "4194305 log\n")
    database = Database.open(path)
    try:
        assert database.recovery is not None
        assert database.recovery.bad is None
        assert "log is gone" in database.recovery.why
        assert database.gateway_id == barn.gateway_id
        assert database.epoch != barn.epoch
        assert stored(database) == ORIGINALS
    finally:
        database.close_now()
    assert Database.open(path).close_now() is None


@pytest.mark.parametrize("words", ["", "4194305\n"])
def test_a_clean_end_and_a_crash_before_the_first_write_miss_no_log(
    path: Path, barn: Barn, words: str
) -> None:
    lay(path, barn.data)
    crashed(path, words)
    database = Database.open(path)
    assert (database.recovery, database.epoch) == (None, barn.epoch)
    database.close_now()
    assert path.with_name(path.name + ".lock").read_text(encoding="ascii") == ""
    for first_boot in (None, b""):
        path.unlink()
        if first_boot is not None:
            path.write_bytes(first_boot)
        crashed(path, "4194305\n")
        database = Database.open(path)
        assert database.recovery is None
        database.close_now()


# --- any damage ------------------------------------------------------------------------------------

PAGES = st.integers(1, 10_000)
BLOCKS = st.lists(
    st.one_of(
        st.tuples(st.just("zero"), PAGES, PAGES),
        st.tuples(st.just("rubbish"), PAGES, PAGES),
        st.tuples(st.just("stale"), PAGES, PAGES),
        st.tuples(st.just("cut"), PAGES, PAGES),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(blocks=BLOCKS)
@example(blocks=[("stale", 436, 257)])
@example(blocks=[("zero", 47, 1), ("stale", 436, 257)])  # the copy stands before damage
@example(blocks=[("stale", 436, 20), ("stale", 462, 20)])  # the inner page twice below itself
def test_no_damage_of_whole_blocks_stops_the_start_or_makes_up_a_reading(
    tmp_path: Path, barn: Barn, blocks: list[tuple[str, int, int]]
) -> None:
    data = barn.data
    for kind, where, seed in blocks:
        number = where % (len(data) // PAGE or 1) + 1
        if kind == "zero":
            data = damage.zeroed(data, number)
        elif kind == "rubbish":
            data = damage.replaced(data, number, random.Random(seed).randbytes(PAGE))
        elif kind == "stale":
            data = damage.replaced(
                data, number, damage.page_of(barn.data, seed % (len(barn.data) // PAGE) + 1)
            )
        else:
            data = data[: max(len(data) - seed % (4 * PAGE), 0)]
    survive(tmp_path / os.urandom(4).hex() / "alert_state.db", data, altered_max=0)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10**6), bits=st.integers(1, 40))
def test_no_flipped_bits_stop_the_start_or_change_more_than_their_own_rows(
    tmp_path: Path, barn: Barn, seed: int, bits: int
) -> None:
    data = damage.flipped(barn.data, seed, bits)
    survive(tmp_path / os.urandom(4).hex() / "alert_state.db", data, altered_max=bits)


def survive(path: Path, data: bytes, altered_max: int) -> None:
    database = open_damaged(path, data)
    try:
        salvage(database)
        rows = database.read_now(lambda db: newest.recent(db, None, 10**6))
        altered = [row for row in rows if ORIGINALS.get((row.cow_id, row.timestamp_ms)) != row]
        assert len(altered) <= altered_max
        if database.recovery is not None:  # SQLite's own check may find nothing wrong with an old page
            assert len({(row.cow_id, row.timestamp_ms) for row in rows}) == len(rows)
            assert database.recovery.bad is not None
            assert database.recovery.bad.read_bytes() == data
    finally:
        database.close_now()
    if database.recovery is not None:
        with open_readonly(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    shutil.rmtree(path.parent)


# --- packed hours and hourly figures ---------------------------------------------------------------


def pack_all(path: Path) -> None:
    """Roll up and pack everything in a store, as the housekeeping does two days later."""
    database = Database.open(path)
    now_hour = T0 // HOUR_MS + 60

    def work(db: sqlite3.Connection) -> None:
        journal.advance(db, journal.CLOSED, now_hour - 1)
        for hour in sorted({hour for (hour,) in db.execute("SELECT arrival_hour FROM arrived")}):
            for data_hour, animals in journal.by_hour(db, hour).items():
                rollups.write(db, rollups.renew(db, data_hour, animals), hour)
            journal.advance(db, journal.ROLLED, hour)
        while (due := packing.due(db, now_hour)) is not None:
            for data_hour in due.animals:
                for piece in packing.plan(db, due, data_hour):
                    packing.apply(db, piece)
            packing.finish(db, due)

    database.write_now(work)
    assert database.read_now(lambda db: db.execute("SELECT count(*) FROM hot_readings").fetchone()) == (0,)
    database.close_now()


def arrived_to_the_second(found: dict[tuple[str, int], Reading]) -> dict[tuple[str, int], Reading]:
    """A chunk keeps the time of arrival to the second."""
    return {
        key: msgspec.structs.replace(one, received_ms=one.received_ms // 1000 * 1000)
        for key, one in found.items()
    }


def figures(database: Database) -> int:
    return int(database.read_now(lambda db: db.execute("SELECT count(*) FROM rollups").fetchone())[0])


@pytest.mark.parametrize("meanwhile", [False, True])
def test_packed_hours_come_over_as_they_are_or_are_merged(path: Path, barn: Barn, *, meanwhile: bool) -> None:
    lay(path, barn.data)
    pack_all(path)
    whole = path.read_bytes()
    database = open_damaged(path, b"\0" * 100 + whole[100:])
    try:
        if meanwhile:  # readings of a packed hour are there before its chunk is
            database.write_now(lambda db: readings.append(db, [reading_of(3, 3), reading_of(4, 100)]))
        tally = salvage(database)
        assert not tally.lost["hot_readings"]
        assert arrived_to_the_second(stored(database)) == arrived_to_the_second(ORIGINALS)
        assert figures(database) == COWS
        again = database.write_now(lambda db: readings.append(db, BATCH[:50]))
        assert set(again) == {readings.Outcome.DUPLICATE}
        parts = database.write_now(lambda db: slices.claim(db, 10**6))
        assert {part.hour for part in parts} <= {T0 // HOUR_MS} | (
            {reading_of(4, 100).timestamp_ms // HOUR_MS}
        )
    finally:
        database.close_now()


def test_a_damaged_chunk_is_left_out_named_and_filled_from_a_backup_that_had_it_unpacked(
    path: Path, barn: Barn
) -> None:
    lay(path, barn.data)
    pack_all(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        chunks = db.execute("SELECT slice, data, rows_n FROM chunks ORDER BY slice").fetchall()
    slice_, data, rows_n = chunks[7]
    file = path.read_bytes().replace(data, data[:9] + bytes([data[9] ^ 1]) + data[10:])
    database = open_damaged(path, bytes(100) + file[100:])
    try:
        tally = Tally()
        source = Source.damaged(path.with_name(BAD), tally)
        source.open()
        while (piece := source.next_piece()) is not None:
            database.write_now(piece)
        source.close()
        found = stored(database)
        assert len(found) == len(ORIGINALS) - rows_n
        assert spans_ms(tally) == [(hour_ms(slice_), hour_ms(slice_) + HOUR_MS)]
        with_backup(path, barn)
        source = Source.backup(database.backups, path, database.gateway_id, tally.lost)
        source.open()
        while (piece := source.next_piece()) is not None:
            database.write_now(piece)
        source.close()
        assert arrived_to_the_second(stored(database)) == arrived_to_the_second(ORIGINALS)
    finally:
        database.close_now()
