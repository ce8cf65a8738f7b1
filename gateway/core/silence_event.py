"""A silence as the outside reads it: the JSON of the outbox. Pure."""

from __future__ import annotations

import msgspec

from gateway.core.instants import iso_utc
from gateway.core.silences import Silence

SCHEMA = "artemis.silence/1"
"""Grows by fields only; a change of meaning is a new number."""
KIND = "silence"
"""The outbox's word for it."""


class SilenceEvent(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """A silence that began or ended. Times are ISO 8601, UTC, with `Z`.

    Args:
        schema: always `SCHEMA`.
        id: the silence's row number on its gateway.
        subject: the animal; None = all.
        kind: of trouble; None = all.
        from_: when it began ("from").
        until: when it ends by itself.
        who: who set it.
        origin: "web", "cli" or "mqtt".
        reason: why.
        ended: when it ended; None while it holds.
        ended_by: who ended it before its time; "" otherwise.
    """

    schema: str
    id: int
    subject: str | None
    kind: str | None
    from_: str
    until: str
    who: str
    origin: str
    reason: str
    ended: str | None
    ended_by: str


def silence_json(silence: Silence) -> bytes:
    """One JSON object, UTF-8."""
    return msgspec.json.encode(
        SilenceEvent(
            schema=SCHEMA,
            id=silence.id,
            subject=silence.subject,
            kind=silence.kind,
            from_=iso_utc(silence.from_ms),
            until=iso_utc(silence.until_ms),
            who=silence.who,
            origin=silence.origin,
            reason=silence.reason,
            ended=iso_utc(silence.ended_ms) if silence.ended_ms is not None else None,
            ended_by=silence.ended_by,
        )
    )
