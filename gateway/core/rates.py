"""How many messages a client may send: a token bucket for each client and row (decision 24).

A client is here who cannot be another at will: a device, with all its connections, or without a
credential all connections of one address. A client id can be chosen, so it counts for nothing.

Pure: time is an argument, in monotonic seconds; it may stand still or jump ahead, never back.

A client over its limit is slowed, not robbed. Messages of QoS 1 and 2 always pass; when the last
token is gone the socket rests until there is one again, so that a backlog of any length drains.
Messages of QoS 0 have no such answer: they are dropped, and a flood of them ends the connection
that goes on with it.
"""

from __future__ import annotations

from typing import Final

import msgspec

FLOOD_FACTOR: Final = 10
"""A QoS 0 flood past this many times the limit is disconnected (decision 24)."""

CLIENTS_MAX: Final = 4000
"""Clients whose buckets are remembered across connections; twice the connections there may be. Each has a
bucket of 0.3 KB for each row it uses: 1000 collars with one row 0.5 MB, 4000 clients with five rows 7 MB."""


class Rate(msgspec.Struct, frozen=True):
    """What a row allows each client.

    Args:
        per_min: messages a minute, steadily.
        burst: messages at once, after a time of silence.

    Raises:
        ValueError: it would never let anything pass.
    """

    per_min: float
    burst: int

    def __post_init__(self) -> None:
        if not self.per_min > 0 or self.burst < 1:
            raise ValueError(f"{self.per_min}/min with a burst of {self.burst} lets nothing pass")


class Pass(msgspec.Struct, frozen=True):
    """Go on."""


class Pause(msgspec.Struct, frozen=True):
    """The message passes; then read nothing from this client for `wait_s` seconds.

    `first`: it is the first over the limit since the bucket was full; worth a line in the log.
    """

    wait_s: float
    first: bool


class Drop(msgspec.Struct, frozen=True):
    """Forget the message; `first` as with Pause."""

    first: bool


class Disconnect(msgspec.Struct, frozen=True):
    """Forget the message and the connection."""


Decision = Pass | Pause | Drop | Disconnect

PASS: Final = Pass()
"""The usual answer, to be compared with `is`."""
_DROP: Final = Drop(first=False)
_DROP_FIRST: Final = Drop(first=True)
_DISCONNECT: Final = Disconnect()


class TokenBucket:
    """What one client may still send on one row.

    Args:
        rate: of the row.
        scale: animals the client speaks for; steady rate and burst are multiplied by it.
        now_s: monotonic seconds; the bucket is full.
    """

    __slots__ = ("_burst", "_excess", "_over", "_per_s", "_stamp_s", "_tokens")

    def __init__(self, rate: Rate, scale: int, now_s: float) -> None:
        self._per_s = rate.per_min * scale / 60
        self._burst = float(rate.burst * scale)
        self._tokens = self._burst
        self._stamp_s = now_s
        self._over = False
        # Dropped messages draw on a second measure, nine times as large: with the tokens ten times the limit.
        self._excess = self._burst * (FLOOD_FACTOR - 1)

    def take(self, qos: int, now_s: float) -> Decision:
        """Decide about one message that has come.

        With one kind of QoS never more than burst + rate × time pass, if pauses are kept. A message
        of QoS 1 or 2 that follows QoS 0 into an empty bucket passes on credit, one at a time.
        """
        if now_s > self._stamp_s:
            self._refill(now_s)
        tokens = self._tokens
        if qos:
            self._tokens = tokens = tokens - 1
            if tokens >= 1:
                return PASS
            return Pause((1 - tokens) / self._per_s, self._is_first())
        if tokens >= 1:
            self._tokens = tokens - 1
            return PASS
        if self._excess < 1:
            return _DISCONNECT
        self._excess -= 1
        return _DROP_FIRST if self._is_first() else _DROP

    def _refill(self, now_s: float) -> None:
        gained = (now_s - self._stamp_s) * self._per_s
        self._stamp_s = now_s
        self._tokens += gained
        if self._tokens >= self._burst:
            self._tokens = self._burst
            self._over = False
        self._excess = min(self._excess + gained * (FLOOD_FACTOR - 1), self._burst * (FLOOD_FACTOR - 1))

    def _is_first(self) -> bool:
        first, self._over = not self._over, True
        return first


class Meter:
    """All buckets of one client: one for each row it uses, and there are a handful of rows.

    Its connections share them: each rests by itself, and the longer the more of them are over the limit.

    Args:
        scale: animals the client speaks for, at least 1.
    """

    __slots__ = ("_buckets", "scale")

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, row: str, rate: Rate, qos: int, now_s: float) -> Decision:
        """Decide about one message on `row`, whose rate never changes."""
        bucket = self._buckets.get(row)
        if bucket is None:
            bucket = self._buckets[row] = TokenBucket(rate, self.scale, now_s)
        return bucket.take(qos, now_s)


class Meters:
    """The meters of all clients: whoever reconnects, by any client id, finds its buckets as it left them.

    Beyond CLIENTS_MAX the client that connected longest ago is forgotten; a connection that still
    holds its meter goes on with it.
    """

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._meters)

    def of(self, whose: str, scale: int) -> Meter:
        """The meter for a connection that has just been let in; a new one if `scale` has changed.

        Args:
            whose: a device's id, or what stands for an address.
            scale: see Meter.
        """
        meter = self._meters.pop(whose, None)
        if meter is None or meter.scale != scale:
            meter = Meter(scale)
        if len(self._meters) >= CLIENTS_MAX:
            del self._meters[next(iter(self._meters))]
            self.forgotten += 1
        self._meters[whose] = meter
        return meter
