from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.findings import Finding
from gateway.core.readings import Reading
from gateway.core.retention import RetentionPolicy, budget_bytes
from gateway.drivers.clock import ManualClock
from gateway.services import housekeep
from gateway.services.housekeep import Housekeep
from gateway.store import chunks, history, journal, readings, retention, slice_key, slices
from gateway.store.database import Database

HOUR_MS = 3_600_000
HOUR0 = 490_000
T0 = HOUR0 * HOUR_MS
BUDGET = 2**30


class Barn:
    """A real store, a clock that is moved, and what was reported."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database = database
        self.clock = clock
        self.told: list[Finding] = []
        self.budget = BUDGET
        self.dice = random.Random(1)

    def noise(self) -> tuple[float, float, float, float]:
        temperature, *axes = (round(self.dice.gauss(0, 0.2), 2) for _ in range(4))
        return 38.5 + temperature, axes[0], axes[1], axes[2]

    async def take(self, findings: list[Finding]) -> None:
        self.told += findings

    def housekeep(self, *, readings_wanted: bool = False, **policy: float) -> Housekeep:
        return Housekeep(
            clock=self.clock,
            database=self.database,
            policy=RetentionPolicy(**policy),  # type: ignore[arg-type]
            budget_bytes=lambda: self.budget,
            destinations=(),
            readings_wanted=readings_wanted,
            report=self.take,
        )

    def count(self, table: str) -> int:
        (rows,) = self.database.read_now(lambda db: db.execute(f"SELECT count(*) FROM {table}").fetchone())
        return int(rows)

    async def damage_chunk(self, hour: int, animal: int) -> None:
        query = "UPDATE chunks SET data = zeroblob(9) WHERE slice = ?"
        where = (slice_key.of(hour, animal),)
        assert await self.database.write(lambda db: db.execute(query, where).rowcount) == 1

    async def hours(self, first: int, hours: int, cows: int = 3) -> None:
        """Readings of some hours, each arriving at once."""
        for hour in range(first, first + hours):
            batch = [
                Reading(f"C{cow}", T0 + hour * HOUR_MS + minute * 60_000, *self.noise(),
                        received_ms=T0 + hour * HOUR_MS + minute * 60_000 + 500)
                for minute in range(60) for cow in range(cows)
            ]  # fmt: skip
            await self.database.write(lambda db, b=batch: readings.append(db, b))  # type: ignore[misc]


def run(path: Path, scene: Callable[[Barn], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database.open(path / "store.db", timeout_s=0.5)
        try:
            await scene(Barn(database, ManualClock(T0)))
        finally:
            await database.close()

    asyncio.run(main())


def test_a_barn_that_runs_for_months_keeps_two_days_raw_ninety_packed_and_figures_for_years(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(barn: Barn) -> None:
        service = barn.housekeep(readings_days=4, rollups_days=7)
        with caplog.at_level(logging.INFO):
            for day in range(10):
                await barn.hours(24 * day, 24)
                await barn.clock.advance_to(T0 + (24 * day + 24) * HOUR_MS)
                for _ in range(3):  # a day's worth of hours takes more than one run
                    await service.run()
        assert barn.count("hot_readings") <= 51 * 180
        assert barn.count("chunks") <= (4 * 24 + 2) * 3 + 24 * 3
        assert 7 * 3 <= barn.count("rollups") <= 8 * 3
        assert barn.count("damaged_chunks") == 0
        stored = barn.count("hot_readings") + sum(barn.database.read_now(lambda db: [
            n for (n,) in db.execute("SELECT rows_n FROM chunks")
        ]))  # fmt: skip
        assert stored + service.dropped["dropped_readings"] == 10 * 24 * 180
        assert [r.message for r in caplog.records if "Retention" in r.message].__len__() == 1
        assert barn.told == []

    run(tmp_path, scene)


def test_a_store_over_its_budget_lets_the_oldest_go_and_tells_once(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        service = barn.housekeep()
        await barn.hours(0, 24 * 6, cows=8)
        await barn.clock.advance_to(T0 + 24 * 6 * HOUR_MS)
        for _ in range(8):
            await service.run()
        packed = barn.count("chunks")
        barn.budget = round(service.size.used_bytes * 0.9)
        for _ in range(3):
            await service.run()
        assert service.size.used_bytes <= barn.budget
        assert barn.count("chunks") < packed
        left = barn.database.read_now(lambda db: db.execute("SELECT min(slice) FROM chunks").fetchone()[0])
        assert left >> slice_key.ANIMAL_BITS > HOUR0, "the oldest went"
        assert barn.count("hot_readings") == 48 * 60 * 8, "what is not packed yet stays"
        (told,) = barn.told
        assert told.kind == "store_budget"
        assert "readings are let go" in told.sentence
        assert service.dropped["dropped_readings"] > 0

    run(tmp_path, scene)


def test_what_the_uplink_waits_for_goes_last(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        service = barn.housekeep(readings_wanted=True, readings_days=3)
        await barn.hours(0, 48)
        for part in await barn.database.write(lambda db: slices.claim(db, 10_000)):
            if part.cow_id == "C1":
                await barn.database.write(lambda db, p=part: slices.delivered(db, p))  # type: ignore[misc]
        for hour in range(6):
            await barn.clock.advance_to(T0 + (24 * 30 + hour) * HOUR_MS)
            await service.run()
        left = barn.database.read_now(lambda db: {
            s & 0xFFFF for (s,) in db.execute("SELECT slice FROM chunks")
        })  # fmt: skip
        assert left == {1, 3}, "C1 was delivered, and is old"
        assert "dropped_undelivered" not in service.dropped
        barn.budget = 4096
        await service.run()
        assert barn.count("chunks") == 0
        assert service.dropped["dropped_undelivered"] == 2 * 48 * 60
        assert "undelivered" in barn.told[-1].sentence

    run(tmp_path, scene)


def test_a_damaged_chunk_is_set_aside_and_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        service = barn.housekeep()
        await barn.hours(0, 2)
        await barn.clock.advance_to(T0 + 60 * HOUR_MS)
        await service.run()
        await barn.damage_chunk(HOUR0, 1)
        late = Reading("C0", T0 + 30_500, 38.0, 0.1, 0.1, 0.1, received_ms=T0 + 60 * HOUR_MS)
        assert await barn.database.write(lambda db: readings.append(db, [late])) == [readings.Outcome.STORED]
        await barn.clock.advance_to(T0 + 62 * HOUR_MS)
        await service.run()  # meets it
        await service.run()  # and sets it aside
        assert [told.kind for told in barn.told] == ["store_damaged"]
        assert "60 readings cannot be read" in barn.told[0].sentence
        await service.run()
        assert len(barn.told) == 1
        assert barn.database.read_now(journal.cursors).rolled_hour == HOUR0 + 60
        assert barn.database.damaged_chunks() == []

    run(tmp_path, scene)


def test_an_untrusted_clock_packs_but_lets_nothing_go_by_age(tmp_path: Path) -> None:
    class Untrusted(ManualClock):
        def trusted(self) -> bool:
            return False

    async def scene(barn: Barn) -> None:
        barn.clock = Untrusted(T0 + 24 * 3650 * HOUR_MS)
        service = barn.housekeep()
        await barn.hours(0, 2)
        await service.run()
        assert barn.count("hot_readings") == 0
        assert barn.count("chunks") == 6
        assert service.dropped == {}

    run(tmp_path, scene)


def test_a_clock_that_ran_ahead_is_told_and_the_walks_go_on_today(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(barn: Barn) -> None:
        service = barn.housekeep()
        await barn.hours(24 * 365 * 10, 1)
        ahead = barn.database.read_now(lambda db: journal.ahead(db, HOUR0 + 1))
        assert ahead
        await barn.clock.advance_to(T0 + HOUR_MS)
        await service.run()
        assert "3 notes of arrivals moved to now" in caplog.text
        await barn.clock.advance_to(T0 + 60 * HOUR_MS)
        await service.run()
        assert barn.count("chunks") == 3

    run(tmp_path, scene)


def test_a_store_that_cannot_write_leaves_the_work_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(barn: Barn) -> None:
        service = barn.housekeep()
        await barn.hours(0, 2)
        await barn.clock.advance_to(T0 + 60 * HOUR_MS)
        with closing(sqlite3.connect(barn.database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await service.run()
            other.execute("ROLLBACK")
        assert barn.count("chunks") == 0
        await service.run()
        assert barn.count("chunks") == 6

    run(tmp_path, scene)


def test_one_run_is_bounded_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeep, "ARRIVAL_HOURS_PER_RUN", 5)

    async def scene(barn: Barn) -> None:
        service = barn.housekeep()
        await barn.hours(0, 12)
        await barn.clock.advance_to(T0 + 24 * 30 * HOUR_MS)
        done = []
        for _ in range(4):
            await service.run()
            done.append(service.counters["rolled_hours"])
        assert done == [5, 10, 12, 12]
        assert barn.count("hot_readings") == 0

    run(tmp_path, scene)


def test_free_room_goes_back_to_the_file_system_in_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeep, "FREE_BYTES_KEPT", 0)

    async def scene(barn: Barn) -> None:
        service = barn.housekeep()
        await barn.hours(0, 72, cows=20)
        await barn.clock.advance_to(T0 + 72 * HOUR_MS)
        await barn.database.write(lambda db: db.execute("DELETE FROM hot_readings").rowcount)
        before = barn.database.read_now(retention.size)
        await service.run()
        after = barn.database.read_now(retention.size)
        assert after.file_bytes < before.file_bytes / 2
        assert service.counters["given_back_pages"] > 0

    run(tmp_path, scene)


def test_the_budget_is_a_share_of_the_partition_or_a_number() -> None:
    assert budget_bytes(RetentionPolicy(), 100) == 70
    assert budget_bytes(RetentionPolicy(disk_mib=64), 100) == 64 * 2**20


def test_a_damaged_chunk_that_only_a_reader_meets_is_set_aside_too(tmp_path: Path) -> None:
    async def scene(barn: Barn) -> None:
        service = barn.housekeep()
        await barn.hours(0, 2)
        await barn.clock.advance_to(T0 + 60 * HOUR_MS)
        await service.run()
        await barn.damage_chunk(HOUR0, 2)

        def everything(db: sqlite3.Connection) -> int:
            return sum(len(part) for part in history.raw(db, 0, 2**50))

        with pytest.raises(chunks.ChunkError):
            await barn.database.read(everything)
        await service.run()
        assert [told.kind for told in barn.told] == ["store_damaged"]
        assert await barn.database.read(everything) == 5 * 60

    run(tmp_path, scene)


def test_readings_taken_while_the_clock_was_months_behind_are_kept_when_it_is_set(tmp_path: Path) -> None:
    class Pi(ManualClock):
        set_right = True

        def trusted(self) -> bool:
            return self.set_right

    async def scene(barn: Barn) -> None:
        barn.clock = clock = Pi(T0)
        service = barn.housekeep()
        await service.run()
        clock.set_right = False  # off for months; it goes on where the file system's clock was left
        await barn.hours(1, 6)
        await clock.advance_to(T0 + 7 * HOUR_MS)
        await service.run()
        clock.set_right = True
        await clock.advance_to(T0 + 24 * 120 * HOUR_MS)
        for _ in range(5):
            await service.run()
            await clock.advance_to(clock.now_ms() + HOUR_MS)
        assert barn.count("hot_readings") == 6 * 180
        assert service.dropped == {}
        await clock.advance_to(clock.now_ms() + 24 * 91 * HOUR_MS)
        for _ in range(4):
            await service.run()
            await clock.advance_to(clock.now_ms() + HOUR_MS)
        assert service.dropped["dropped_readings"] == 6 * 180

    run(tmp_path, scene)
