"""The three clocks: the machine's, a faster one for demonstrations, one driven by data.

They are read and slept on in the event loop's thread. Wall time is UTC epoch milliseconds,
monotonic time is seconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

RELEASED_MS = 1_764_547_200_000
"""2025-12-01T00:00:00Z. This version did not exist before: a wall clock that shows less is wrong."""

TRUST_CACHE_S = 30.0
"""The answer costs three system calls and is asked for with every reading; NTP needs minutes."""

RTC_AGREES_S = 300.0
"""A battery-backed clock drifts about 2 s a day (20 ppm); 300 s is five months without NTP."""

_TIME_ERROR = 5
"""What adjtimex(2) returns while the kernel's clock is not synchronised."""
_TIMEX_BYTES = 512
"""struct timex is 208 bytes on 64-bit Linux; the buffer only has to be larger."""
_SETTLE_TURNS = 10
"""Turns of the event loop a woken sleeper gets before the data clock moves on."""


def kernel_synchronised() -> bool | None:
    """Whether NTP, chrony or PTP disciplines the kernel's clock; None where it cannot be asked."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: read only
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _TIME_ERROR


class SystemClock:
    """The machine's own time.

    `trusted()` (decision 7) is True when one of these holds, asked in this order:

    1. `assume_trusted`, or a person set the time (`trust()`);
    2. the machine does not run Linux (macOS and Windows set their clocks themselves);
    3. wall time is past this version's release, and one of
       a. systemd-timesyncd says so (`/run/systemd/timesync/synchronized`);
       b. the kernel says so (adjtimex: chrony, ntpd, PTP);
       c. a hardware clock shows a sane time of its own and agrees within 5 minutes. Its mere
          presence proves nothing: a Raspberry Pi 5 has one that starts at 1970 without battery;
       d. the machine is no board with a device tree (Raspberry Pi and its like). A laptop, a
          server or a virtual machine has its time from a battery or from its host.

    Args:
        assume_trusted: the operator vouches for this machine's clock.
        root: where /run, /sys and /proc are.
        kernel: asks the kernel; see `kernel_synchronised`.
        linux: whether rule 3 applies at all.
    """

    def __init__(
        self,
        *,
        assume_trusted: bool = False,
        root: Path = Path("/"),
        kernel: Callable[[], bool | None] = kernel_synchronised,
        linux: bool = sys.platform == "linux",
    ) -> None:
        self._vouched = assume_trusted
        self._root = root
        self._kernel = kernel
        self._linux = linux
        self._answer = False
        self._asked_s = -TRUST_CACHE_S

    def now_ms(self) -> int:
        """Wall time; steps when somebody sets the clock."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds since some moment, never stepping back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def trust(self) -> None:
        """A person has set the time; valid until the process ends."""
        self._vouched = True

    def trusted(self) -> bool:
        """Whether wall time can be believed; looked up at most every 30 s."""
        if self._vouched or not self._linux:
            return True
        now_s = self.monotonic_s()
        if now_s - self._asked_s >= TRUST_CACHE_S:
            self._asked_s = now_s
            self._answer = self._look()
        return self._answer

    def _look(self) -> bool:
        if self.now_ms() < RELEASED_MS:
            return False
        return (
            (self._root / "run/systemd/timesync/synchronized").exists()
            or self._kernel() is True
            or self._hardware_clock_agrees()
            or not (self._root / "proc/device-tree/model").exists()
        )

    def _hardware_clock_agrees(self) -> bool:
        try:
            hardware_s = int((self._root / "sys/class/rtc/rtc0/since_epoch").read_text())
        except (OSError, ValueError):
            return False
        sane = hardware_s * 1000 >= RELEASED_MS
        return sane and abs(hardware_s - self.now_ms() / 1000) <= RTC_AGREES_S


class ScaledClock:
    """Barn time that starts in the past and runs `speed` times faster until it meets wall time.

    From then on it is wall time, so nothing it stamps ever lies in the future (decision 6).
    It is always trusted: its start is chosen, not measured.

    Args:
        start_ms: first barn instant, at or before now.
        speed: barn seconds per real second, at least 1.
        real: the clock underneath.

    Raises:
        ValueError: start in the future, or a speed below 1.
    """

    def __init__(self, start_ms: int, speed: float, real: SystemClock | None = None) -> None:
        self._real = real or SystemClock()
        self._start_ms = start_ms
        self._speed = speed
        self._start_real_s = self._real.monotonic_s()
        behind_s = (self._real.now_ms() - start_ms) / 1000
        if behind_s < 0 or speed < 1:
            raise ValueError(
                f"accelerated time starts in the past and runs at 1x or faster, not {-behind_s:.0f} s "
                f"ahead at {speed:g}x"
            )
        # At 1x there is nothing to catch up with: barn time stays behind by the same amount.
        self._chase_s = behind_s / (speed - 1) if speed > 1 else float("inf")

    def now_ms(self) -> int:
        """Barn time, or wall time once barn time has caught up with it."""
        real_s = self._real_s()
        if real_s >= self._chase_s:
            return self._real.now_ms()
        return self._start_ms + int(real_s * self._speed * 1000)

    def monotonic_s(self) -> float:
        """Barn seconds since the start."""
        real_s = self._real_s()
        return real_s + min(real_s, self._chase_s) * (self._speed - 1)

    def trusted(self) -> bool:
        """Always."""
        return True

    async def sleep(self, seconds: float) -> None:
        """Wait for that many barn seconds."""
        real_s = self._real_s()
        fast_s = max(0.0, min(seconds / self._speed, self._chase_s - real_s))
        await self._real.sleep(fast_s + max(0.0, seconds - fast_s * self._speed))

    def caught_up(self) -> bool:
        """Whether barn time has become wall time."""
        return self._real_s() >= self._chase_s

    def _real_s(self) -> float:
        return self._real.monotonic_s() - self._start_real_s


class ManualClock:
    """Time that moves when it is told to: replays move it with their data, tests at will.

    Args:
        start_ms: first instant. `monotonic_s` is 0 then.
    """

    def __init__(self, start_ms: int = 0) -> None:
        self._start_ms = start_ms
        self._now_ms = start_ms
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._turn = itertools.count()

    def now_ms(self) -> int:
        """The instant it was last advanced to."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Seconds since `start_ms`."""
        return (self._now_ms - self._start_ms) / 1000

    def trusted(self) -> bool:
        """Always: data time is what it is."""
        return True

    @property
    def sleepers(self) -> int:
        """How many tasks wait on this clock."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by that much; whole milliseconds, rounded up."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        due_ms = self._now_ms - int(-seconds * 1000 // 1)
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (due_ms, next(self._turn), woken)
        heapq.heappush(self._sleepers, entry)
        try:
            await woken
        finally:
            if entry in self._sleepers:  # cancelled: do not keep its place
                self._sleepers.remove(entry)
                heapq.heapify(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move forward by that much, waking sleepers on the way."""
        await self.advance_to(self._now_ms + round(seconds * 1000))

    async def advance_to(self, instant_ms: int) -> None:
        """Move forward to an instant, stopping at each sleeper that is due, in order.

        An instant in the past changes nothing: data comes late, time does not go back. A woken
        task runs until it waits for something; if that is a thread or a socket, the caller has
        to wait for the outcome itself.
        """
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= instant_ms:
            due_ms, _, woken = heapq.heappop(self._sleepers)
            self._now_ms = max(self._now_ms, due_ms)
            if not woken.done():
                woken.set_result(None)
            await _settle()
        self._now_ms = max(self._now_ms, instant_ms)


async def _settle() -> None:
    for _ in range(_SETTLE_TURNS):
        await asyncio.sleep(0)
