"""The nightly run as the gateway's minute asks for it: real store, real folder, a clock that is moved."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway import wiring
from gateway.config import Config
from gateway.config import schema as sections
from gateway.core.alerts import AlertPolicy, State, step
from gateway.core.findings import Finding
from gateway.core.retention import RetentionPolicy
from gateway.core.severity import Severity
from gateway.services.backups import KIND, RETRY_S, Backups
from gateway.store.database import Database
from gateway.store.farm import FarmRegister

BERLIN = ZoneInfo("Europe/Berlin")


class Clock:
    """The site's wall time, set by hand; monotonic time goes with it unless it steps."""

    def __init__(self, local: str) -> None:
        self.ms = 0
        self.s = 1000.0
        self.is_trusted = True
        self.step(local)

    def step(self, local: str) -> None:
        self.ms = round(datetime.fromisoformat(local).replace(tzinfo=BERLIN).timestamp() * 1000)

    def forward(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)
        self.s += seconds

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.s

    def trusted(self) -> bool:
        return self.is_trusted

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


class Night:
    """A gateway's evening: a store, a folder, and the part under test."""

    def __init__(self, tmp_path: Path, local: str) -> None:
        self.clock = Clock(local)
        self.db = Database.open(tmp_path / "data" / "alert_state.db")
        self.room_bytes = 2**40
        self.folder = Path("backups")  # as the configuration has it, relative
        self.part = self.fresh()

    def fresh(self) -> Backups:
        farm = self.db.path.with_name("farm.json")
        return Backups(
            clock=self.clock,
            store=self.db.path,
            farm=farm,
            folder=self.folder,
            zone=BERLIN,
            room_bytes=lambda: self.room_bytes,
        )

    async def tick(self) -> Finding | None:
        """One minute of the housekeeping loop, the run it starts included."""
        told = await self.part.tick()
        return told or await self.part.finish()

    def names(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def barn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)

    def run(local: str, story: Callable[[Night], Awaitable[None]]) -> None:
        night = Night(tmp_path, local)

        async def main() -> None:
            async with asyncio.timeout(60):
                await story(night)
                await night.part.close()

        try:
            asyncio.run(main())
        finally:
            night.db.close_now()

    return run


def test_at_two_the_line_of_document_0_is_logged_and_only_once(
    barn: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story(night: Night) -> None:
        night.folder.mkdir()
        (night.folder / "alert_state_20251124_020000.db").write_bytes(b"last night's")
        assert await night.tick() is None
        assert night.part.done == 0
        for _ in range(5):
            night.clock.forward(60)
            await night.tick()
        assert night.names() == ["alert_state_20251124_020000.db", "alert_state_20251125_020000.db"]
        assert (night.part.done, night.part.failed, night.part.last_error) == (1, 0, None)
        assert night.part.last_path == Path("backups/alert_state_20251125_020000.db")

    barn("2025-11-25T01:59:00", story)
    assert caplog.messages == ["Backup created: backups/alert_state_20251125_020000.db"]


def test_a_night_without_power_is_made_up_for_at_once_and_a_restart_knows_it(
    barn: Callable[..., None],
) -> None:
    async def story(night: Night) -> None:
        await night.tick()
        assert night.names() == ["alert_state_20251125_093000.db"]
        night.part = night.fresh()
        night.clock.forward(60)
        await night.tick()
        assert (night.part.done, len(night.names())) == (0, 1)

    barn("2025-11-25T09:30:00", story)


def test_older_than_a_week_goes_after_a_good_backup_and_only_by_a_clock_that_is_right(
    barn: Callable[..., None],
) -> None:
    old, young = "alert_state_20251117_020000.db", "alert_state_20251119_020000.db"

    async def story(night: Night) -> None:
        night.folder.mkdir()
        for name in (old, young):
            (night.folder / name).write_bytes(b"")
        night.clock.is_trusted = False
        await night.tick()
        assert night.names() == [old, young, "alert_state_20251125_020000.db"]
        night.clock.is_trusted = True
        night.clock.forward(24 * 3600)
        await night.tick()
        assert night.names() == [
            young,
            "alert_state_20251125_020000.db",
            "alert_state_20251126_020000.db",
        ]

    barn("2025-11-25T02:00:00", story)


def test_ten_nights_with_a_small_disk_keep_what_fits_into_the_backups_half_of_it(
    barn: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(
        database=sections.Database(path=str(tmp_path / "data" / "alert_state.db")),
        store=sections.Store(farm_register=str(tmp_path / "data" / "farm.json")),
        backup=sections.Backup(directory="backups", keep_days=30),
        site=sections.Site(timezone="Europe/Berlin"),
        retention=RetentionPolicy(disk_mib=16),
    )

    async def story(night: Night) -> None:
        blob = "INSERT INTO meta VALUES ('weight', randomblob(1800000))"
        await night.db.write(lambda db: db.execute(blob).rowcount)
        register = FarmRegister.open(Path(config.store.farm_register))
        register.upsert_animal("COW_1", name="Berta")
        register.close()
        night.part = wiring.backups(config, night.clock)
        for _ in range(10):
            assert await night.tick() is not None
            night.clock.forward(24 * 3600)
        days = ["20251201", "20251202", "20251203", "20251204"]
        assert night.names() == [
            *(f"alert_state_{day}_020000.db" for day in days),
            *(f"farm_{day}_020000.json" for day in days),
        ]
        sizes = [p.stat().st_size for p in night.folder.iterdir()]
        one_bytes = max(sizes)
        assert sum(sizes) <= wiring.backup_room(config) == 8 * 2**20 < sum(sizes) + one_bytes
        assert wiring.store_budget(config) == 8 * 2**20
        assert (night.part.done, night.part.failed, night.part.given_up) == (10, 0, 6)

    barn("2025-11-25T02:00:00", story)
    told = [message for message in caplog.messages if "gone" in message]
    assert len(told) == 6
    assert told[0] == "Backups in backups may take 8 MiB in all; gone: alert_state_20251125_020000.db"


def test_room_for_less_than_one_backup_keeps_the_newest(barn: Callable[..., None]) -> None:
    async def story(night: Night) -> None:
        night.room_bytes = 1
        night.clock.is_trusted = False  # a disk is no bigger while the network is down
        for _ in range(3):
            await night.tick()
            night.clock.forward(24 * 3600)
        assert night.names() == ["alert_state_20251127_020000.db"]
        assert (night.part.done, night.part.given_up) == (3, 2)

    barn("2025-11-25T02:00:00", story)


def test_a_disk_that_cannot_say_its_size_is_told_and_the_backup_stands(barn: Callable[..., None]) -> None:
    async def story(night: Night) -> None:
        night.part._room_bytes = lambda: shutil.disk_usage("no-such-disk").total
        told = await night.tick()
        assert told is not None
        assert told.present
        assert "backups: No such file or directory" in told.sentence
        assert night.names() == ["alert_state_20251125_020000.db"]

    barn("2025-11-25T02:00:00", story)


def test_a_failure_is_one_line_and_one_alert_until_a_backup_succeeds(
    barn: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story(night: Night) -> None:
        night.folder.write_text("a file where the folder should be", encoding="utf-8")
        failed = await night.tick()
        assert failed is not None
        assert (failed.subject, failed.kind, failed.present) == ("gateway", KIND, True)
        assert failed.severity is Severity.WARNING
        assert "backups" in failed.sentence
        for _ in range(10):  # not every minute anew
            night.clock.forward(60)
            assert await night.tick() is None
        assert night.part.failed == 1
        night.clock.forward(RETRY_S)
        again = await night.tick()
        assert again is not None
        assert again.present
        assert night.part.failed == 2
        assert night.part.last_error is not None

        night.folder.unlink()
        night.clock.forward(RETRY_S)
        good = await night.tick()
        assert good is not None
        assert not good.present
        assert (night.part.done, night.part.last_error) == (1, None)

        policy = AlertPolicy()
        raised = step(None, failed, failed.at_ms, policy)
        assert raised.alert is not None
        ended = step(raised.alert, good, good.at_ms, policy)
        assert ended.alert is not None
        assert ended.alert.state is State.RESOLVED

    barn("2025-11-25T02:00:00", story)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_an_old_backup_that_cannot_be_deleted_is_told_and_the_new_one_stands(
    barn: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story(night: Night) -> None:
        (night.folder / "alert_state_20251101_020000.db").mkdir(parents=True)
        told = await night.tick()
        assert told is not None
        assert told.present
        assert (night.part.done, night.part.failed) == (1, 1)
        assert "alert_state_20251125_020000.db" in night.names()
        night.clock.forward(2 * RETRY_S)
        assert await night.tick() is None, "the night has its backup"

    barn("2025-11-25T02:00:00", story)
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR"]


def test_a_run_never_overlaps_itself_and_tick_does_not_wait_for_it(barn: Callable[..., None]) -> None:
    async def story(night: Night) -> None:
        held = threading.Event()
        night.part._look = lambda _left, _total: held.wait(30) or None  # type: ignore[method-assign]
        try:
            for _ in range(5):
                assert await night.part.tick() is None
                night.clock.forward(60)
            assert night.part.running
        finally:
            held.set()
        told = await night.part.finish()
        assert told is not None
        assert not told.present
        assert night.names() == ["alert_state_20251125_020000.db"]

    barn("2025-11-25T02:00:00", story)


def test_a_stop_in_the_middle_of_a_backup_leaves_nothing_and_is_no_failure(
    barn: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story(night: Night) -> None:
        begun = threading.Event()
        look = night.part._look

        def slow(left: int, total: int) -> None:
            begun.set()
            assert night.part._stop.wait(30)
            look(left, total)

        night.part._look = slow  # type: ignore[method-assign]
        await night.part.tick()
        assert await asyncio.to_thread(begun.wait, 30)
        await night.part.close()
        assert night.names() == []
        assert (night.part.done, night.part.failed) == (0, 0)
        assert await night.tick() is None, "after the stop nothing is begun"

    barn("2025-11-25T02:00:00", story)
    assert caplog.messages == []


def test_the_night_that_has_two_o_clock_twice_gets_one_backup(barn: Callable[..., None]) -> None:
    async def story(night: Night) -> None:
        for _ in range(5 * 12):
            await night.tick()
            night.clock.forward(300)
        assert night.part.done == 2  # the first ever at 23:00, then the night's
        assert night.names()[-1] == "alert_state_20251026_020000.db"

    barn("2025-10-25T23:00:00", story)
