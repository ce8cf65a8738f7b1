from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gateway.drivers.clock import RELEASED_MS, ManualClock, ScaledClock, SystemClock, kernel_synchronised
from gateway.ports import Clock


class FakeTime(SystemClock):
    """The machine's clock with its oscillator in our hands."""

    def __init__(self, wall_ms: int = RELEASED_MS, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.wall_ms = wall_ms
        self.mono_s = 1000.0
        self.slept_s = 0.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_s(self) -> float:
        return self.mono_s

    def pass_s(self, seconds: float) -> None:
        self.wall_ms += round(seconds * 1000)
        self.mono_s += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept_s = seconds
        self.pass_s(seconds)


def board(root: Path) -> Path:
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.5")
    return root


def clock_on(root: Path, *, kernel: bool | None = False, wall_ms: int = RELEASED_MS + 1) -> FakeTime:
    return FakeTime(wall_ms, root=root, kernel=lambda: kernel, linux=True)


def test_all_three_are_clocks() -> None:
    clocks: list[Clock] = [SystemClock(), ScaledClock(0, 2), ManualClock(5)]
    assert all(isinstance(clock.now_ms(), int) for clock in clocks)


def test_the_system_clock_is_the_machines() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() / 1000 - time.time()) < 5
    before = clock.monotonic_s()
    asyncio.run(clock.sleep(0.01))
    assert clock.monotonic_s() - before >= 0.009


def test_the_kernel_can_be_asked_without_rights() -> None:
    assert kernel_synchronised() in {True, False, None}


def test_a_pi_without_network_is_not_trusted(tmp_path: Path) -> None:
    assert not clock_on(board(tmp_path)).trusted()


def test_a_kernel_that_cannot_be_asked_proves_nothing(tmp_path: Path) -> None:
    assert not clock_on(board(tmp_path), kernel=None).trusted()


def test_timesyncd_makes_it_trusted_within_30_s(tmp_path: Path) -> None:
    clock = clock_on(board(tmp_path))
    assert not clock.trusted()
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    (tmp_path / "run/systemd/timesync/synchronized").touch()
    clock.pass_s(29)
    assert not clock.trusted(), "cached"
    clock.pass_s(1)
    assert clock.trusted()


def test_chrony_makes_it_trusted(tmp_path: Path) -> None:
    assert clock_on(board(tmp_path), kernel=True).trusted()


@pytest.mark.parametrize(
    ("offset_s", "trusted"), [(0, True), (-299, True), (-301, False), (301, False), (None, False)]
)
def test_a_hardware_clock_counts_only_when_it_runs_and_agrees(
    tmp_path: Path, offset_s: int | None, trusted: bool
) -> None:
    clock = clock_on(board(tmp_path), wall_ms=RELEASED_MS + 86_400_000)
    (tmp_path / "sys/class/rtc/rtc0").mkdir(parents=True)
    shown_s = 17 if offset_s is None else clock.now_ms() // 1000 + offset_s
    (tmp_path / "sys/class/rtc/rtc0/since_epoch").write_text(f"{shown_s}\n")
    assert clock.trusted() is trusted


def test_a_laptop_or_ci_machine_without_ntp_is_trusted(tmp_path: Path) -> None:
    assert clock_on(tmp_path).trusted()


def test_no_machine_is_trusted_before_this_version_was_released(tmp_path: Path) -> None:
    assert not clock_on(tmp_path, kernel=True, wall_ms=RELEASED_MS - 1).trusted()


def test_an_operator_or_a_person_can_vouch(tmp_path: Path) -> None:
    assert FakeTime(0, root=tmp_path, linux=True, assume_trusted=True).trusted()
    clock = clock_on(board(tmp_path))
    clock.trust()
    assert clock.trusted()


def test_other_systems_are_trusted(tmp_path: Path) -> None:
    assert FakeTime(0, root=tmp_path, linux=False).trusted()


def test_scaled_time_runs_fast_until_it_meets_the_wall_clock() -> None:
    real = FakeTime()
    start_ms = real.wall_ms - 3_600_000
    clock = ScaledClock(start_ms, 61, real)
    assert (clock.now_ms(), clock.monotonic_s()) == (start_ms, 0)
    real.pass_s(30)
    assert clock.now_ms() == start_ms + 30 * 61 * 1000
    assert clock.monotonic_s() == 30 * 61
    assert not clock.caught_up()
    real.pass_s(30)  # 3600 s behind, gaining 60 s a second
    assert clock.caught_up()
    assert clock.now_ms() == real.wall_ms
    assert clock.monotonic_s() == 3660
    real.pass_s(10)
    assert clock.now_ms() == real.wall_ms
    assert clock.monotonic_s() == 3670


def test_scaled_sleep_lasts_its_barn_seconds_also_across_the_meeting() -> None:
    real = FakeTime()
    clock = ScaledClock(real.wall_ms - 3_600_000, 61, real)
    for seconds, real_s in [(61, 1.0), (61 * 58, 58.0), (61 + 5, 1.0 + 5), (7, 7.0)]:
        before_s = clock.monotonic_s()
        asyncio.run(clock.sleep(seconds))
        assert real.slept_s == pytest.approx(real_s)
        assert clock.monotonic_s() - before_s == pytest.approx(seconds)


def test_scaled_time_at_1x_stays_behind() -> None:
    real = FakeTime()
    clock = ScaledClock(real.wall_ms - 5000, 1, real)
    real.pass_s(60)
    assert clock.now_ms() == real.wall_ms - 5000


@pytest.mark.parametrize(("ahead_ms", "speed"), [(1000, 10), (-1000, 0.5)])
def test_scaled_time_refuses_the_future_and_slow_motion(ahead_ms: int, speed: float) -> None:
    real = FakeTime()
    with pytest.raises(ValueError, match="starts in the past"):
        ScaledClock(real.wall_ms + ahead_ms, speed, real)


def test_manual_time_wakes_sleepers_in_order_at_their_instants() -> None:
    async def scene() -> list[tuple[str, int]]:
        clock = ManualClock(1000)
        woken: list[tuple[str, int]] = []

        async def nap(name: str, *seconds: float) -> None:
            for part in seconds:
                await clock.sleep(part)
                woken.append((name, clock.now_ms()))

        async with asyncio.TaskGroup() as group:
            group.create_task(nap("a", 3, 1))
            group.create_task(nap("b", 1, 1, 1))
            await clock.advance(3.5)
            assert clock.now_ms() == 4500
            assert clock.monotonic_s() == 3.5
            assert clock.sleepers == 1
            await clock.advance_to(6000)
        return woken

    assert asyncio.run(scene()) == [("b", 2000), ("b", 3000), ("a", 4000), ("b", 4000), ("a", 5000)]


def test_manual_time_never_goes_back() -> None:
    async def scene() -> None:
        clock = ManualClock(1000)
        await clock.advance_to(500)
        assert clock.now_ms() == 1000
        await clock.sleep(0)
        assert clock.now_ms() == 1000

    asyncio.run(scene())


def test_a_cancelled_sleeper_leaves_no_trace() -> None:
    async def scene() -> None:
        clock = ManualClock()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await clock.sleep(1)
        assert clock.sleepers == 0

    asyncio.run(scene())


def test_fractions_of_a_millisecond_are_slept_in_full() -> None:
    async def scene() -> None:
        clock = ManualClock()
        nap = asyncio.create_task(clock.sleep(0.0001))
        await clock.advance_to(0)
        assert not nap.done()
        await clock.advance_to(1)
        assert nap.done()

    asyncio.run(scene())
