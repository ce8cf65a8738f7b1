"""A message to one person over one channel, ready to hand over. Pure data."""

from __future__ import annotations

import msgspec


class Letter(msgspec.Struct, frozen=True):
    """What a notifier sends.

    Args:
        channel: a name of `notify.channels`.
        to: the address on that channel (see `contacts.Address.to`).
        contact: the person's name.
        message_id: stable over restarts; the receiver may deduplicate on it (decision 39).
        title: one line; "" where the channel takes the short form only.
        body: plain text.
        severity: "info", "warning" or "critical".
        svg: the chart behind the alert, where the channel takes pictures; else None.
        fields: facts for machines (generic webhook): the alert event's own names and values.
    """

    channel: str
    to: str
    contact: str
    message_id: str
    title: str
    body: str
    severity: str
    svg: str | None = None
    fields: dict[str, str] = {}
