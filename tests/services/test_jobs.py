import asyncio
from datetime import datetime, timedelta

import pytest
import schedule

from gateway.services.jobs import IDLE_S, Jobs


class Clock:
    """Monotonic time that stands until `sleep` moves it."""

    def __init__(self) -> None:
        self.s = 1000.0

    def now_ms(self) -> int:
        return int(self.s * 1000)

    def monotonic_s(self) -> float:
        return self.s

    def trusted(self) -> bool:
        return True

    async def sleep(self, seconds: float) -> None:
        self.s += seconds
        await asyncio.sleep(0)


def drive(jobs, clock, seconds, step_s=1.0):
    async def main():
        async with asyncio.timeout(10):
            end_s = clock.s + seconds
            while clock.s < end_s:
                clock.s += step_s
                await jobs.tick()

    asyncio.run(main())


def counted(into, name):
    async def start():
        into.append(name)

    return start


def test_jobs_run_at_their_interval_and_not_before():
    clock, seen = Clock(), []
    jobs = Jobs(clock)
    jobs.every("two", 120, counted(seen, "two"))
    jobs.every("five", 300, counted(seen, "five"), first_s=5)
    drive(jobs, clock, 4)
    assert seen == []
    drive(jobs, clock, 1)
    assert seen == ["five"]
    drive(jobs, clock, 595)
    assert seen.count("two") == 5
    assert seen.count("five") == 2
    assert jobs.runs == {"two": 5, "five": 2}


@pytest.mark.parametrize("days", [-1, 1, 1 / 24, -9000])
def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch, days):
    clock, seen = Clock(), []
    wall = {"shift": timedelta()}

    class Wall(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2025, 11, 25, 12) + timedelta(seconds=clock.s) + wall["shift"]  # noqa: DTZ001

    monkeypatch.setattr("gateway.services.jobs.datetime", Wall)
    monkeypatch.setattr(schedule.datetime, "datetime", Wall)
    jobs = Jobs(clock)
    jobs.every("two", 120, counted(seen, "two"))
    drive(jobs, clock, 600)
    wall["shift"] = timedelta(days=days)
    drive(jobs, clock, 600)
    assert len(seen) == 10


def test_a_raising_job_is_counted_and_starves_nobody(caplog):
    clock, seen = Clock(), []
    jobs = Jobs(clock)

    async def bad():
        raise RuntimeError("broken")

    jobs.every("bad", 60, bad)
    jobs.every("good", 60, counted(seen, "good"))
    drive(jobs, clock, 180)
    assert len(seen) == 3
    assert jobs.failures == {"bad": 3}
    assert "Job bad failed" in caplog.text


def test_a_slow_job_does_not_overlap_itself():
    clock, seen = Clock(), []
    jobs = Jobs(clock)

    async def main():
        begun, go = asyncio.Event(), asyncio.Event()

        async def slow():
            seen.append("slow")
            begun.set()
            await go.wait()

        jobs.every("slow", 60, slow)
        clock.s += 60
        first = asyncio.create_task(jobs.tick())
        async with asyncio.timeout(10):
            await begun.wait()
            clock.s += 60
            jobs._look()
            go.set()
            await first
            clock.s += 60
            await jobs.tick()

    asyncio.run(main())
    assert seen == ["slow", "slow"]
    assert jobs.skipped == {"slow": 1}


def test_missed_runs_are_not_made_up_for():
    clock, seen = Clock(), []
    jobs = Jobs(clock)
    jobs.every("two", 120, counted(seen, "two"))
    drive(jobs, clock, 1250, step_s=1250)
    assert len(seen) == 1
    assert jobs.next_due_s() == 1000 + 11 * 120


def test_run_sleeps_to_the_next_due_time_and_lets_a_begun_run_end():
    clock, seen = Clock(), []
    jobs = Jobs(clock)

    async def main():
        begun, go = asyncio.Event(), asyncio.Event()

        async def last():
            begun.set()
            await go.wait()
            seen.append("ended")

        jobs.every("often", 10, counted(seen, "often"))
        jobs.every("last", 60, last)
        async with asyncio.timeout(10):
            task = asyncio.create_task(jobs.run())
            await begun.wait()
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert seen.count("often") >= 5
    assert seen[-1] == "ended"


def test_a_second_cancellation_cuts_a_run_short():
    clock = Clock()
    jobs = Jobs(clock)

    async def main():
        begun = asyncio.Event()

        async def forever():
            begun.set()
            await asyncio.Event().wait()

        jobs.every("forever", 10, forever)
        async with asyncio.timeout(10):
            task = asyncio.create_task(jobs.run())
            await begun.wait()
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_nothing_scheduled():
    clock = Clock()
    jobs = Jobs(clock)
    assert jobs.next_due_s() is None
    asyncio.run(jobs.tick())

    async def main():
        slept = asyncio.Event()

        async def sleep(seconds):
            assert seconds == IDLE_S
            slept.set()
            await asyncio.Event().wait()

        clock.sleep = sleep
        task = asyncio.create_task(jobs.run())
        await slept.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    with pytest.raises(ValueError, match="interval"):
        jobs.every("never", 0, counted([], "x"))
