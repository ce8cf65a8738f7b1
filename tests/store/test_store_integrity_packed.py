"""What verify finds in packed hours and hourly figures, and that a rollback to release 1 is no fault."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.readings import Reading
from gateway.errors import ChecksFailedError
from gateway.store import backup, journal, packing, readings, restore, rollups, slice_key
from gateway.store.database import Database
from gateway.store.integrity import verify
from tests.store import release_1
from tests.store.test_store_backup import NIGHT, rows

HOUR_MS = 3_600_000
FIRST_HOUR = 490_000
HOURS = 6
COWS = ("COW_1", "COW_2")


def herd() -> list[Reading]:
    return [
        Reading(
            cow_id=cow_id,
            timestamp_ms=(FIRST_HOUR + hour) * HOUR_MS + minute * 60_000,
            temperature_c=38.5,
            fxa_g=0.1,
            mya_g=0.2,
            rza_g=-0.9,
            received_ms=(FIRST_HOUR + hour) * HOUR_MS + minute * 60_000 + 500,
        )
        for hour in range(HOURS)
        for cow_id in COWS
        for minute in range(60)
    ]


def roll_up_and_pack(db: Database, now_hour: int) -> None:
    """What the housekeeping does, in one go."""
    db.write_now(lambda c: journal.advance(c, journal.CLOSED, now_hour - 1))
    while (at := db.read_now(_next_to_roll(now_hour))) is not None:
        for hour, animals in db.read_now(lambda c, at=at: journal.by_hour(c, at)).items():  # type: ignore[misc]
            days = db.read_now(lambda c, h=hour, a=animals: rollups.renew(c, h, a))  # type: ignore[misc]
            db.write_now(lambda c, d=days, at=at: rollups.write(c, d, at))  # type: ignore[misc]
        db.write_now(lambda c, at=at: journal.advance(c, journal.ROLLED, at))  # type: ignore[misc]
    while (due := db.read_now(lambda c: packing.due(c, now_hour))) is not None:
        for hour in due.animals:
            for piece in db.read_now(lambda c, d=due, h=hour: packing.plan(c, d, h)):  # type: ignore[misc]
                db.write_now(lambda c, p=piece: packing.apply(c, p))  # type: ignore[misc]
        db.write_now(lambda c, d=due: packing.finish(c, d))  # type: ignore[misc]


def _next_to_roll(now_hour: int) -> Callable[[sqlite3.Connection], int | None]:
    return lambda c: journal.next_hour(c, journal.cursors(c).rolled_hour, now_hour - 1)


@pytest.fixture
def packed(path: Path) -> Iterator[Database]:
    """Six hours of two animals, all rolled up and packed."""
    db = Database.open(path)
    db.write_now(lambda c: readings.append(c, herd()))
    roll_up_and_pack(db, FIRST_HOUR + HOURS + 100)
    assert db.read_now(lambda c: c.execute("SELECT count(*) FROM chunks").fetchone()) == (HOURS * 2,)
    assert rows(path) == 0
    yield db
    db.close_now()


def change(db: Database, *statements: str) -> None:
    db.close_now()
    with closing(sqlite3.connect(db.path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


FIRST = f"slice = {slice_key.of(FIRST_HOUR, 1)}"
PLACE = "table chunks, 2025-11-24T16:00:00Z of COW_1"


def test_a_packed_store_has_no_fault_and_progress_is_told(packed: Database) -> None:
    seen: list[tuple[str, int, int]] = []
    assert verify(packed.path, lambda *told: seen.append(told)) == []
    assert ("packed hours", HOURS * 2, HOURS * 2) in seen


@pytest.mark.parametrize("at", [0, 3, 4, 20, -1])
def test_one_flipped_byte_in_a_chunk_is_found_wherever_it_is(packed: Database, at: int) -> None:
    (data,) = packed.read_now(lambda c: c.execute(f"SELECT data FROM chunks WHERE {FIRST}").fetchone())
    bad = bytearray(data)
    bad[at] ^= 1
    change(packed, f"UPDATE chunks SET data = x'{bad.hex()}' WHERE {FIRST}")
    (fault,) = verify(packed.path)
    assert fault.place == f"{packed.path}, {PLACE}"
    assert "checksum" in fault.what
    assert "restore" in fault.remedy


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (f"UPDATE chunks SET rows_n = 59 WHERE {FIRST}", "holds 60 readings, 59 were packed"),
        (
            f"UPDATE chunks SET slice = slice + 65536000 WHERE {FIRST}",
            "its instants are not those of the hour, in order",
        ),
        (f"UPDATE chunks SET data = x'' WHERE {FIRST}", "checksum"),
        ("UPDATE animals SET id = 9 WHERE id = 1", "the animal is not in table animals"),
        ("DELETE FROM rollups", "60 readings, but table rollups has counted 0"),
        ("UPDATE rollups SET data = x'01'", "60 readings, but table rollups has counted 0"),
        (
            (
                f"INSERT INTO hot_readings VALUES ({FIRST_HOUR * HOUR_MS << 15 | 1},"
                " 3850, 1, 2, 3, 0, 0, 0, 1, 0, 1, 0)"
            ),
            "1 readings stand in table hot_readings as well",
        ),
    ],
)
def test_what_does_not_fit_together_is_named_with_its_hour(packed: Database, damage: str, what: str) -> None:
    change(packed, damage)
    faults = verify(packed.path)
    assert faults
    assert any(what in fault.what and "table chunks, 2" in fault.place for fault in faults), faults


def test_a_late_reading_that_waits_for_the_walkers_is_no_fault(packed: Database) -> None:
    late = Reading(
        cow_id="COW_1",
        timestamp_ms=FIRST_HOUR * HOUR_MS + 30_500,
        temperature_c=39.0,
        fxa_g=0.0,
        mya_g=0.0,
        rza_g=-1.0,
        received_ms=(FIRST_HOUR + HOURS + 100) * HOUR_MS,
    )
    packed.write_now(lambda c: readings.append(c, [late]))
    assert verify(packed.path) == []
    roll_up_and_pack(packed, FIRST_HOUR + HOURS + 102)
    assert verify(packed.path) == []
    roll_up_and_pack(packed, FIRST_HOUR + HOURS + 200)
    assert verify(packed.path) == []
    assert rows(packed.path) == 0


def test_a_reading_that_release_1_stored_again_waits_to_be_merged_and_is_no_fault(packed: Database) -> None:
    packed.close_now()
    again = ("COW_1", FIRST_HOUR * HOUR_MS, 3850, 100, 200, -900, None, None, None, None, None, 1, 0)
    with closing(sqlite3.connect(packed.path, isolation_level=None)) as old:
        release_1.opens(old)
        assert release_1.append(old, [again]) == [True]
    assert verify(packed.path) == []


def test_a_packed_store_is_restored_with_all_its_readings_counted(packed: Database, tmp_path: Path) -> None:
    saved = backup.create(packed.path, tmp_path / "b", NIGHT).path
    packed.close_now()
    done = restore.restore(saved, packed.path, tmp_path / "farm.json", NIGHT)
    assert (done.readings_n, done.newest_ms) == (HOURS * 120, herd()[-1].timestamp_ms)


def test_a_backup_with_a_broken_chunk_is_not_restored(packed: Database, tmp_path: Path) -> None:
    change(packed, f"UPDATE chunks SET data = x'00' WHERE {FIRST}")
    saved = backup.create(packed.path, tmp_path / "b", NIGHT).path
    with pytest.raises(ChecksFailedError, match="checksum"):
        restore.restore(saved, packed.path, tmp_path / "farm.json", NIGHT)
