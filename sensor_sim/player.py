"""Plays transmissions into a sink at real time, N times faster, or without waiting. One task.

Accelerated runs start in the past. Where the simulated time reaches the clock, it goes on
at real time: a reading is never sent before its own instant.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from sensor_sim.episodes import Episode
from sensor_sim.faults import Transmission
from sensor_sim.herd import topic_of
from sensor_sim.times import iso

LOG = logging.getLogger("barn-sim")
_YIELD_EVERY = 256
"""Sends between two looks at the event loop when nothing is waited for."""
PROGRESS_S = 60.0


class Sink(Protocol):
    """Where messages go."""

    async def send(self, topic: str, payload: bytes) -> None:
        """Take one message; may wait for room."""
        ...


class Clock(Protocol):
    """Time at the rim; tests bring their own."""

    def wall_ms(self) -> int:
        """UTC epoch milliseconds; may step."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never step back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """This machine's clocks."""

    def wall_ms(self) -> int:
        """UTC epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)


class Player:
    """One run.

    Args:
        sink: takes the messages.
        clock: gives wall and monotonic time.
        start_ms: the simulated instant at which play begins.
        speed: simulated seconds a second; None sends without waiting.
        live: whether somebody listens now, so nothing may come from the future. False (a
            file without pacing) never looks at the clock.
        episodes: announced in the log as they begin.
    """

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        *,
        start_ms: int,
        speed: float | None,
        live: bool,
        episodes: Sequence[Episode] = (),
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._start_ms = start_ms
        self._speed = speed
        self._live = live
        self._coming = sorted(episodes, key=lambda episode: episode.start_ms, reverse=True)
        self._caught_up = False
        self.sent = 0

    async def play(self, transmissions: Iterable[Transmission]) -> None:
        """Send everything, each at its time. Cancel to stop early."""
        began_s = self._clock.monotonic_s()
        reported_s = began_s
        for message in transmissions:
            await self._wait_until_due(message, began_s)
            self._announce(message.send_ms)
            await self._sink.send(topic_of(message.cow_id), message.payload)
            self.sent += 1
            if self.sent % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if self._live and self._clock.monotonic_s() - reported_s >= PROGRESS_S:
                reported_s = self._clock.monotonic_s()
                LOG.info("Barn time %s, %d messages sent", iso(message.send_ms), self.sent)

    async def _wait_until_due(self, message: Transmission, began_s: float) -> None:
        """Until both the simulated and, for a live sink, the real clock have reached it."""
        while True:
            pace_s = wall_s = 0.0
            if self._speed is not None:
                due_s = began_s + (message.send_ms - self._start_ms) / 1000 / self._speed
                pace_s = due_s - self._clock.monotonic_s()
            if self._live:
                wall_s = (message.send_ms - self._clock.wall_ms()) / 1000
            if pace_s <= 0 and wall_s <= 0:
                return
            if wall_s > max(pace_s, 0) and not self._caught_up and self._speed != 1:
                self._caught_up = True
                LOG.info("Caught up with the clock at %s; real time from here", iso(message.send_ms))
            await self._clock.sleep(max(pace_s, wall_s))

    def _announce(self, now_ms: int) -> None:
        """One line for each episode that begins."""
        while self._coming and self._coming[-1].start_ms <= now_ms:
            episode = self._coming.pop()
            LOG.info("Barn time %s: %s begins in %s", iso(episode.start_ms), episode.kind, episode.cow_id)
