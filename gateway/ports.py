"""The few interfaces with more than one real implementation today."""

from __future__ import annotations

from typing import Protocol

from gateway.core.delivery import Delivered, Rejected, RetryLater
from gateway.core.signals import Signal


class Clock(Protocol):
    """Time at the rim. Real, scaled (demo) and driven by data (replay, tests)."""

    def now_ms(self) -> int:
        """Wall time, UTC epoch milliseconds. May step."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never step back; their zero means nothing."""
        ...

    def trusted(self) -> bool:
        """Whether wall time comes from NTP, an RTC or a person (decision 7)."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait on the monotonic clock."""
        ...


class Panel(Protocol):
    """Lamp and buzzer: gpiozero pins, or a recorder that prints."""

    def show(self, signal: Signal) -> None:
        """Play a signal until the next one. Never blocks. Idempotent."""
        ...

    def close(self) -> None:
        """All pins off and released."""
        ...


class Transport(Protocol):
    """One upstream destination: an MQTT broker today."""

    async def deliver(self, topic: str, payload: bytes) -> Delivered | RetryLater | Rejected:
        """Hand over one message; `Delivered` only after the peer acknowledged it."""
        ...

    async def close(self) -> None:
        """Say goodbye and release the socket."""
        ...


class Receipt(Protocol):
    """The broker's side of one publish that waits for its commit."""

    def settle(self) -> None:
        """What was received is on disk: acknowledge it. Called once, on the loop's thread."""
        ...
