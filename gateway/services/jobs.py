"""Document 0's detector schedule on the `schedule` library, immune to wall-clock jumps. Event loop.

`schedule` compares naive local time, so a clock that steps back a day would mean a day without
detectors. Here each job's due time is kept on the gateway's monotonic clock, and `next_run` is
set from it before every `run_pending()`: steps, DST gaps and accelerated clocks change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import schedule

from gateway.ports import Clock

log = logging.getLogger(__name__)

FIRST_RUN_S_MAX: Final = 5.0
"""The first run comes this soon after the start: what arrived before a power cut waits for nobody."""
LOOK_S_MAX: Final = 1.0
"""The longest wait between two looks at the due times."""


@dataclass(slots=True)
class JobReport:
    """What became of one job since the start.

    Args:
        interval_s: between two runs, monotonic seconds.
        due_s: next due, monotonic seconds.
        runs: finished without a fault.
        failures: ended by an exception.
        skipped: due while the run before was still going on.
        last_run_ms: end of the last run (UTC epoch ms).
    """

    interval_s: float
    due_s: float
    runs: int = 0
    failures: int = 0
    skipped: int = 0
    last_run_ms: int | None = None


class Jobs:
    """Periodic jobs; each run is a task of its own, and a job never overlaps itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scheduler = schedule.Scheduler()
        self._running: dict[str, asyncio.Task[None]] = {}
        self.reports: dict[str, JobReport] = {}

    def every(self, name: str, interval_s: float, start: Callable[[], Awaitable[Any]]) -> None:
        """Run `start` every `interval_s` monotonic seconds, first after at most five.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.reports:
            raise ValueError(f"job {name} is already scheduled")
        due_s = self._clock.monotonic_s() + min(interval_s, FIRST_RUN_S_MAX)
        self.reports[name] = JobReport(interval_s, due_s)
        # The unit does not matter: `_anchor` decides when it is due.
        self._scheduler.every(1).seconds.do(self._launch, name, start).tag(name)

    async def run(self) -> None:
        """Start what is due, for ever."""
        while True:
            self._start_due()
            now_s = self._clock.monotonic_s()
            next_s = min((report.due_s for report in self.reports.values()), default=now_s + LOOK_S_MAX)
            await self._clock.sleep(min(max(next_s - now_s, 0.0), LOOK_S_MAX))

    async def tick(self) -> None:
        """Start what is due and wait until it is done; for replays, where the caller moves the clock."""
        self._start_due()
        await self.finish(None)

    async def finish(self, timeout_s: float | None) -> None:
        """Wait for the runs that are going on, at most `timeout_s` real seconds; the rest is cancelled."""
        running = list(self._running.values())
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _start_due(self) -> None:
        self._anchor()
        self._scheduler.run_pending()

    def _anchor(self) -> None:
        """Give every job the `next_run` that its monotonic due time means at this moment."""
        here, now_s = datetime.now(), self._clock.monotonic_s()  # noqa: DTZ005 - schedule's own clock
        for job in self._scheduler.get_jobs():
            due_s = self.reports[str(next(iter(job.tags)))].due_s
            late = due_s <= now_s
            job.next_run = here if late else here + timedelta(seconds=min(due_s - now_s, 86_400) + 1)

    def _launch(self, name: str, start: Callable[[], Awaitable[Any]]) -> None:
        report = self.reports[name]
        now_s = self._clock.monotonic_s()
        # The grid is kept; what a long run or a jump made impossible is left out, not caught up.
        missed = max(0, int((now_s - report.due_s) / report.interval_s))
        report.due_s += (missed + 1) * report.interval_s
        if name in self._running:
            report.skipped += 1
            return
        task = asyncio.create_task(self._guarded(name, start), name=f"job {name}")
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))

    async def _guarded(self, name: str, start: Callable[[], Awaitable[Any]]) -> None:
        """One run; a fault is logged and counted, and the next run comes as if nothing had been."""
        report = self.reports[name]
        try:
            await start()
            report.runs += 1
        except Exception:  # a job that fails must not take the others with it
            report.failures += 1
            log.exception("Scheduled job %s failed (failure %d)", name, report.failures)
        finally:
            report.last_run_ms = self._clock.now_ms()
