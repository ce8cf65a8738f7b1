"""Silences: for a while nobody is woken for an animal, a kind of trouble, or the barn. Pure.

A silenced alert is raised, kept, shown and lit like any other; only sound and messages rest.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.core.alerts import HERD, HERD_SUFFIX, NEVER_SILENCED, Alert
from gateway.core.instants import DAY_MS

SILENCE_MAX_MS = 7 * DAY_MS
"""A silence that outlives the week is forgotten by who set it, and then it hides the next trouble.
What is wrong for longer is repaired, sold, or silenced anew by somebody who has looked at it."""


class Silence(msgspec.Struct, frozen=True):
    """One silence. Times are UTC epoch milliseconds by the gateway's clock.

    Args:
        id: row number in the store, 0 until it is stored.
        subject: the animal ("herd" and "gateway" too); None = all.
        kind: of trouble, its herd event with it; None = all. Without subject and kind it is the whole barn.
        from_ms: when it began.
        until_ms: when it ends by itself.
        who: a person's or device's name.
        origin: "web", "cli" or "mqtt".
        reason: why, as they put it.
        ended_ms: when its end was acted on, by time or by hand; None while it holds.
        ended_by: who ended it before its time, "name (origin)"; "" otherwise.
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
    ended_by: str = ""


def silence_fault(silence: Silence) -> str | None:
    """What is wrong with a silence somebody asks for, with the remedy; None = nothing."""
    if silence.until_ms <= silence.from_ms:
        return "the silence ends before it begins; give an end after now"
    if silence.until_ms - silence.from_ms > SILENCE_MAX_MS:
        days = SILENCE_MAX_MS // DAY_MS
        return f"the silence is longer than {days} days; give an earlier end and renew it when it is over"
    if silence.kind in NEVER_SILENCED:
        return f"{silence.kind} is never silenced; acknowledge the alert instead"
    return None


def covers(silence: Silence, alert: Alert) -> bool:
    """Whether the silence is about this alert; calls for help are never silenced."""
    return (
        silence.ended_ms is None
        and alert.kind not in NEVER_SILENCED
        and silence.subject in (None, alert.subject)
        and silence.kind in (None, alert.kind, _kind_of_members(alert))
    )


def _kind_of_members(alert: Alert) -> str:
    """Of a herd event: who silences fever does not mean to be woken by fever of many."""
    return alert.kind.removesuffix(HERD_SUFFIX) if alert.subject == HERD else alert.kind


def silenced(alert: Alert, silences: Iterable[Silence]) -> bool:
    """Whether any of them holds the alert back."""
    return any(covers(silence, alert) for silence in silences)


def silence_over(silence: Silence, now_ms: int) -> bool:
    """Whether its time has come; also when a clock that was set back would make it hold too long."""
    return silence.ended_ms is not None or not 0 < silence.until_ms - now_ms <= SILENCE_MAX_MS
