"""The few interfaces with more than one real implementation, or between rings that do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.core.alerts import Alert, State
from gateway.core.delivery import Delivered, Rejected, RetryLater
from gateway.core.signals import Signal
from gateway.core.silences import Silence


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


class AlertDesk(Protocol):
    """What people may do about alerts, whatever they reach the gateway by: `services/alarm.Alarm`.

    Each call is on disk when it returns.

    Raises:
        StoreError: the store cannot write; everything is as before.
    """

    @property
    def open_alerts(self) -> list[Alert]:
        """All alerts whose episode still runs."""
        ...

    @property
    def silences(self) -> Sequence[Silence]:
        """Those that hold."""
        ...

    async def acknowledge(self, *, alert_id: int | None, who: str, origin: str, note: str = "") -> int:
        """The id of the alert this call has acknowledged; 0 if unknown, ended, or somebody was first."""
        ...

    async def close(self, *, alert_id: int, state: State, who: str, origin: str, note: str = "") -> int:
        """The id of the alert this call has ended; 0 if it is not open."""
        ...

    async def silence(
        self, *, subject: str | None, kind: str | None, until_ms: int, who: str, origin: str, reason: str
    ) -> Silence:
        """A new silence, from now on."""
        ...

    async def end_silence(self, *, silence_id: int, who: str, origin: str) -> bool:
        """Whether this call has ended one that held."""
        ...
