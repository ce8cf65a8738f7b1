"""Silences: for a while nobody is woken for an animal, a kind of trouble, or the barn. Pure.

A silenced alert is raised, kept, shown and lit like any other; only sound and messages rest.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

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


def covers(silence: Silence, alert: Alert) -> bool:
    """Whether the silence is about this alert; calls for help are never silenced."""
    return (
        silence.ended_ms is None
        and alert.kind not in NEVER_SILENCED
        and silence.subject in (None, alert.subject)
        and silence.kind in (None, alert.kind)
    )


def silenced(alert: Alert, silences: Iterable[Silence]) -> bool:
    """Whether any of them holds the alert back."""
    return any(covers(silence, alert) for silence in silences)


HOLD_MS_MAX = 7 * 86_400_000


def silence_fault(silence: Silence, now_ms: int) -> str | None:
    """Why this cannot be a silence."""
    if silence.until_ms <= now_ms:
        return "the silence would end in the past"
    if silence.until_ms > now_ms + HOLD_MS_MAX:
        return "a silence holds 7 days at most"
    return None


def silence_over(silence: Silence, now_ms: int) -> bool:
    """Whether its time has come; also when a clock that was set back would make it hold too long."""
    return silence.ended_ms is not None or not 0 < silence.until_ms - now_ms <= HOLD_MS_MAX
