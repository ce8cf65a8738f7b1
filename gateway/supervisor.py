"""Keeps the gateway's tasks running, says which one died, and ends them in time.

Runs in the main task: `app` adds tasks, waits in `wait()`, then takes the process down with
`stop()`. The failure policy is DESIGN's: a critical task that fails ends the process (systemd
starts it again), any other is started again with a jittered back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable

import msgspec

from gateway.core.delivery import BackoffPolicy, next_delay
from gateway.errors import GatewayError
from gateway.ports import Clock

log = logging.getLogger(__name__)

STOP_S_MAX = 30.0
"""From the request to stop until the process is gone (S0-074, decision 32)."""

RESTART_BACKOFF = BackoffPolicy(initial_s=1.0, max_s=60.0, factor=2.0)
"""Quicker than a reconnect: the first restart usually helps, and costs nobody else anything."""

STEADY_S = 60.0
"""A task that ran this long before failing starts over at the first back-off step."""

FAULT_SHOWN_S = 600.0
"""How long a restart is shown as trouble: ten back-offs of the longest kind."""


class CriticalTaskError(GatewayError):
    """A task the gateway cannot do without has ended; `name` says which, `__cause__` why."""

    def __init__(self, name: str, cause: BaseException | None) -> None:
        why = f"{type(cause).__name__}: {cause}" if cause is not None else "it returned"
        hint = cause.hint if isinstance(cause, GatewayError) else ""
        super().__init__(f"critical task {name} has ended: {why}", hint)
        self.name = name
        if isinstance(cause, GatewayError):
            self.exit_code = cause.exit_code  # the area the operator has to look at


class _Job(msgspec.Struct):
    """One supervised task and its record."""

    name: str
    work: Callable[[], Awaitable[None]]
    critical: bool
    restarts: int = 0
    last_fault: str = ""
    failed_s: float = 0.0
    task: asyncio.Task[None] | None = None


class _Pulse(msgspec.Struct):
    """When something last showed that it is alive (real monotonic seconds)."""

    silence_s_max: float
    beat_s: float


class Supervisor:
    """Owner of all long-running tasks.

    Args:
        clock: for back-off between restarts.
        backoff: how long to wait before restarting a task.
        stop_s_max: real seconds from `request_stop()` to `give_up`.
        give_up: ends the process the hard way when stopping takes longer (`os._exit`); called
            in a thread of its own, because the loop may be what hangs. None = never.
        random_unit: jitter, uniform in 0..1.
        monotonic_s: real seconds for the watchdog; a barn clock may run faster or stand still.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        backoff: BackoffPolicy = RESTART_BACKOFF,
        stop_s_max: float = STOP_S_MAX,
        give_up: Callable[[], None] | None = None,
        random_unit: Callable[[], float] = random.random,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._backoff = backoff
        self._stop_s_max = stop_s_max
        self._give_up = give_up
        self._random_unit = random_unit
        self._monotonic_s = monotonic_s
        self._jobs: dict[str, _Job] = {}
        self._pulses: dict[str, _Pulse] = {}
        self._stop_asked = asyncio.Event()
        self._deadline_s: float | None = None
        self._last_resort: threading.Timer | None = None

    # Watchdog (decision 41) --------------------------------------------------------------------

    def expect(self, name: str, silence_s_max: float) -> None:
        """From now on `name` (a task or a thread) has to `beat` at least this often."""
        self._pulses[name] = _Pulse(silence_s_max, self._monotonic_s())

    def beat(self, name: str) -> None:
        """`name` is alive. One that nobody expects is ignored."""
        if pulse := self._pulses.get(name):
            pulse.beat_s = self._monotonic_s()

    def silent(self) -> tuple[str, ...]:
        """Who has not beaten in time."""
        now_s = self._monotonic_s()
        return tuple(n for n, pulse in self._pulses.items() if now_s - pulse.beat_s > pulse.silence_s_max)

    def healthy(self) -> bool:
        """Whether the watchdog may be fed."""
        return not self.silent()

    # Running -----------------------------------------------------------------------------------

    def start(self, name: str, work: Callable[[], Awaitable[None]], *, critical: bool) -> None:
        """Run `work` as a task until `stop`. Names are unique.

        A critical one must not return. Another one may: it is done and not started again.
        """
        if name in self._jobs:
            raise ValueError(f"task {name} is already supervised")
        job = _Job(name, work, critical)
        self._jobs[name] = job
        run = self._run_critical if critical else self._run_again
        job.task = asyncio.create_task(run(job), name=name)

    @property
    def restarts(self) -> dict[str, int]:
        """How often each non-critical task was started again."""
        return {job.name: job.restarts for job in self._jobs.values() if not job.critical}

    @property
    def faults(self) -> dict[str, str]:
        """The last fault of each non-critical task that had one in the last `FAULT_SHOWN_S`."""
        since_s = self._monotonic_s() - FAULT_SHOWN_S
        return {
            job.name: job.last_fault
            for job in self._jobs.values()
            if job.last_fault and job.failed_s >= since_s
        }

    async def wait(self) -> None:
        """Return when a stop is asked for.

        Raises:
            CriticalTaskError: a critical task has ended; also while others are being stopped.
        """
        asked = asyncio.create_task(self._stop_asked.wait(), name="wait for stop")
        try:
            while not asked.done():
                critical = {job.task for job in self._jobs.values() if job.critical and job.task is not None}
                done, _ = await asyncio.wait({asked, *critical}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {asked}:
                    task.result()
        finally:
            asked.cancel()
            await asyncio.wait([asked])

    async def _run_critical(self, job: _Job) -> None:
        try:
            await job.work()
        except Exception as error:
            raise CriticalTaskError(job.name, error) from error
        raise CriticalTaskError(job.name, None)

    async def _run_again(self, job: _Job) -> None:
        attempt = 0
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await job.work()
            except Exception as error:
                ran_s = self._clock.monotonic_s() - began_s
                attempt = 1 if ran_s >= STEADY_S else attempt + 1
                wait_s = next_delay(attempt, self._backoff, self._random_unit())
                job.restarts += 1
                job.failed_s = self._monotonic_s()
                job.last_fault = f"{type(error).__name__}: {error}"
                # A fault with a remedy speaks for itself; anything else is a bug and needs its trace.
                bug = not isinstance(error, GatewayError)
                text = "Task %s failed, again in %.1f s: %s"
                log.error(text, job.name, wait_s, error, exc_info=bug)  # noqa: TRY400 - trace only for bugs
                await self._clock.sleep(wait_s)
            else:
                return

    # Stopping ----------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask for an orderly end; the clock of `stop_s_max` starts. Later calls change nothing."""
        if self._deadline_s is not None:
            return
        self._deadline_s = self._monotonic_s() + self._stop_s_max
        self._stop_asked.set()
        if self._give_up is not None:
            self._last_resort = threading.Timer(self._stop_s_max, self._give_up)
            self._last_resort.name = "last resort"
            self._last_resort.daemon = True
            self._last_resort.start()

    async def stop_asked(self, within_s: float) -> bool:
        """Whether a stop is asked for in this time; returns as soon as it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._stop_asked.wait()
        return self._stop_asked.is_set()

    @property
    def remaining_s(self) -> float:
        """What is left of the time to stop; all of it before a stop was asked for."""
        if self._deadline_s is None:
            return self._stop_s_max
        return max(0.0, self._deadline_s - self._monotonic_s())

    async def stop(self, *names: str) -> tuple[str, ...]:
        """Cancel tasks (all, without names), newest first, and wait for them in the time left.

        Returns:
            The names of those that would not end; they are left behind and named in the log.
        """
        self.request_stop()
        jobs = [self._jobs[name] for name in names] if names else list(self._jobs.values())
        stubborn: list[str] = []
        for job in reversed(jobs):
            if job.task is None:
                continue
            job.task.cancel()
            _, pending = await asyncio.wait([job.task], timeout=self.remaining_s)
            if pending:
                stubborn.append(job.name)
            elif not job.task.cancelled() and (error := job.task.exception()) is not None:
                log.error("Task %s failed while stopping: %s", job.name, error)
        if stubborn:
            log.error("Tasks that did not stop in %.0f s: %s", self._stop_s_max, ", ".join(stubborn))
        return tuple(stubborn)

    def stopped(self) -> None:
        """The shutdown is complete: call the last resort off."""
        if self._last_resort is not None:
            self._last_resort.cancel()
            self._last_resort.join()
            self._last_resort = None
