"""Silences: for a while nobody is woken for an animal, a kind of trouble, or the barn. Pure.

A silenced alert is raised, kept, shown and lit like any other; only sound and messages rest.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.core.alert_event import AlertEvent
from gateway.core.alerts import NEVER_SILENCED, Alert


class Silence(msgspec.Struct, frozen=True):
    """One silence. Times are UTC epoch milliseconds by the gateway's clock.

    Args:
        id: row number in the store, 0 until it is stored.
        subject: the animal ("herd" and "gateway" too); None = all.
        kind: of trouble; None = all. Without subject and kind it is the whole barn.
        from_ms: when it began.
        until_ms: when it ends by itself.
        who: a person's or device's name.
        origin: "web", "cli" or "mqtt".
        reason: why, as they put it.
        ended_ms: when its end was acted on, by time or by hand; None while it holds.
    """

    id: int
    subject: str | None
    kind: str | None
    from_ms: int
    until_ms: int
    who: str
    origin: str
    reason: str
    ended_ms: int | None = None


def covers(silence: Silence, alert: Alert | AlertEvent) -> bool:
    """Whether the silence is about this alert; calls for help are never silenced."""
    return (
        silence.ended_ms is None
        and alert.kind not in NEVER_SILENCED
        and silence.subject in (None, alert.subject)
        and silence.kind in (None, alert.kind)
    )


def silenced(alert: Alert | AlertEvent, silences: Iterable[Silence]) -> bool:
    """Whether any of them holds the alert back."""
    return any(covers(silence, alert) for silence in silences)
