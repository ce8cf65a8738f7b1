"""One day of the barn, counted: what the daily summary tells. Pure data, filled from the store."""

from __future__ import annotations

import msgspec

from gateway.core.alert_event import AlertEvent


class Raised(msgspec.Struct, frozen=True):
    """How many alerts of one kind and severity were raised."""

    severity: str
    kind: str
    n: int


class DaySummary(msgspec.Struct, frozen=True):
    """What happened between two instants.

    Args:
        from_ms: UTC epoch ms; its date at the site names the day.
        until_ms: UTC epoch ms, not included.
        raised: alerts raised in it, info too.
        open_now: alerts that are open when it is written (`event_of` without a change).
        animals_n: animals with at least one reading.
        readings_n: readings stored.
        rejected_n: messages refused.
        silent: animals without a signal when it is written.
    """

    from_ms: int
    until_ms: int
    raised: tuple[Raised, ...] = ()
    open_now: tuple[AlertEvent, ...] = ()
    animals_n: int = 0
    readings_n: int = 0
    rejected_n: int = 0
    silent: tuple[str, ...] = ()
