"""People who are told of alerts, as the farm register holds them. Pure."""

from __future__ import annotations

import msgspec


class Address(msgspec.Struct, frozen=True):
    """One way to reach a person.

    Args:
        channel: a name of `notify.channels` ("sms", "email", "webhook", …).
        to: phone number, e-mail address, or a whole apprise URL where the channel is "push".
        severity: "info", "warning" or "critical": nothing below is sent here.
    """

    channel: str
    to: str
    severity: str = "warning"


class Contact(msgspec.Struct, frozen=True):
    """A person.

    Args:
        name: stands in the audit; unique.
        addresses: where messages go; at most 8.
        rung: of the ladder: 1 is told at once, 2 when a critical alert was not acknowledged for
            30 min, and so on (1 to 9).
        groups: animal groups they look after; empty = all.
        kinds: of trouble they are told of; empty = all.
        hours: local "HH:MM-HH:MM" of duty (may pass midnight); "" = always.
        quiet: local hours in which only critical alerts are sent, the rest after them; "" = none.
        language: "en", "de", …
        daily_summary: whether the summary of the day is sent.
    """

    name: str
    addresses: tuple[Address, ...] = ()
    rung: int = 1
    groups: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    hours: str = ""
    quiet: str = ""
    language: str = "en"
    daily_summary: bool = False
