"""The schedule of detector runs: the `schedule` library on a clock that cannot jump.

Runs on the event loop. The library lives on naive wall time: a step back by a day would mean no
runs for a day, a change to summer time 70 minutes without one, and a job that raises starves the
others. So due times are kept on the monotonic clock, and before each look every job's `next_run`
is set anew from them; jobs only start a task, and what a task raises is caught and counted here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import schedule

from gateway.ports import Clock

logger = logging.getLogger(__name__)

IDLE_S = 60.0
"""How long `run` sleeps when nothing is scheduled at all."""


class _Entry:
    """One job: its due time on the monotonic clock and the task of its current run."""

    __slots__ = ("due_s", "interval_s", "job", "name", "start", "task")

    def __init__(self, name: str, interval_s: float, start: Callable[[], Awaitable[object]]) -> None:
        self.name = name
        self.interval_s = interval_s
        self.start = start
        self.due_s = 0.0
        self.task: asyncio.Task[None] | None = None
        self.job: schedule.Job


class Jobs:
    """Periodic jobs that never overlap themselves and never stop each other.

    Args:
        clock: its monotonic side decides; its wall time only dates the last run.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scheduler = schedule.Scheduler()
        self._entries: list[_Entry] = []
        self.runs: Counter[str] = Counter()
        """Finished runs by job, failed ones included."""
        self.failures: Counter[str] = Counter()
        """Runs that raised, by job."""
        self.failing: set[str] = set()
        """Jobs whose last run raised."""
        self.skipped: Counter[str] = Counter()
        """Runs left out because the one before was still going, by job."""
        self.last_run_ms: dict[str, int] = {}
        """When the last run of each job ended, UTC epoch ms."""

    def every(
        self,
        name: str,
        interval_s: float,
        start: Callable[[], Awaitable[object]],
        *,
        first_s: float | None = None,
    ) -> None:
        """Run `start` every `interval_s` seconds.

        Args:
            name: for counters and log.
            interval_s: seconds between runs, above 0.
            start: called without arguments on the event loop.
            first_s: seconds until the first run; by default one interval.
        """
        if interval_s <= 0:
            raise ValueError(f"{name}: an interval of {interval_s} s")
        entry = _Entry(name, interval_s, start)
        entry.due_s = self._clock.monotonic_s() + (interval_s if first_s is None else first_s)
        # The library's own interval is never used: `due_s` decides, see _look.
        entry.job = self._scheduler.every(1).seconds.do(self._begin, entry)
        self._entries.append(entry)

    @property
    def names(self) -> tuple[str, ...]:
        """Every job, in the order they were given."""
        return tuple(entry.name for entry in self._entries)

    def next_due_s(self) -> float | None:
        """Monotonic time of the next run; None if there are no jobs."""
        return min((entry.due_s for entry in self._entries), default=None)

    async def tick(self) -> None:
        """Start what is due and wait until it has finished."""
        self._look()
        tasks = [entry.task for entry in self._entries if entry.task is not None]
        if tasks:
            await asyncio.gather(*tasks)

    async def run(self) -> None:
        """Start runs as they come due, until cancelled; then wait for running ones to end."""
        try:
            while True:
                self._look()
                due_s = self.next_due_s()
                wait_s = IDLE_S if due_s is None else due_s - self._clock.monotonic_s()
                await self._clock.sleep(max(0.0, wait_s))
        finally:
            # A run that has begun ends by itself (S0-074); a second cancellation cuts it short.
            tasks = [entry.task for entry in self._entries if entry.task is not None]
            try:
                if tasks:
                    await asyncio.gather(*tasks)
            except asyncio.CancelledError:
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    def _look(self) -> None:
        """Anchor every due time to the wall clock of this moment, then let the library choose."""
        now_s = self._clock.monotonic_s()
        wall = datetime.now()  # noqa: DTZ005  the library compares with naive local time
        for entry in self._entries:
            entry.job.next_run = wall + timedelta(seconds=entry.due_s - now_s)
            if entry.due_s > now_s:
                # A tenth of a second of work between here and the library's own look must not
                # make a job due that is not: the order of runs would depend on the machine.
                entry.job.next_run += timedelta(hours=1)
        self._scheduler.run_pending()

    def _begin(self, entry: _Entry) -> None:
        """Called by the library: start a task, never wait, never raise."""
        now_s = self._clock.monotonic_s()
        missed_n = int((now_s - entry.due_s) // entry.interval_s)
        entry.due_s += (missed_n + 1) * entry.interval_s
        if entry.task is not None:
            self.skipped[entry.name] += 1
            logger.warning("Job %s is still running; this run is left out", entry.name)
            return
        entry.task = asyncio.get_running_loop().create_task(self._run(entry), name=f"job {entry.name}")

    async def _run(self, entry: _Entry) -> None:
        try:
            await entry.start()
            self.failing.discard(entry.name)
        except Exception:  # a job that fails must not starve the others; counted and logged
            self.failures[entry.name] += 1
            self.failing.add(entry.name)
            logger.exception("Job %s failed", entry.name)
        finally:
            self.runs[entry.name] += 1
            self.last_run_ms[entry.name] = self._clock.now_ms()
            entry.task = None
