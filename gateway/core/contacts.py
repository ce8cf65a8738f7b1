"""People who are told of alerts, as the farm register holds them. Pure."""

from __future__ import annotations

import re
import unicodedata
from datetime import time

import msgspec

from gateway.core.severity import Severity

NAME_CHARS_MAX = 64
"""Stands in the audit and in a message of 160 characters."""
WORDS_MAX = 32
"""Groups or kinds of one contact: a farm has a dozen of each; twice that, and room."""
WORD_CHARS_MAX = 64
ADDRESSES_MAX = 8
"""Phone, second phone, two mail boxes, a push service, a chat, a webhook, and one more."""
ADDRESS_CHARS_MAX = 512
"""A whole apprise URL with its tokens is under 300."""
RUNG_MAX = 9

_PHONE = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
"""E.164: plus, country code, at most 15 digits in all."""
_EMAIL = re.compile(r"[^\s@,;<>\"]{1,64}@(?:[\w-]{1,63}\.)+[\w-]{2,63}")
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_RANGE = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24(?=:00)):([0-5][0-9])", re.ASCII)


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


def contact_fault(contact: Contact) -> str | None:
    """What is wrong with a contact: the field, what it holds, and the remedy; None if nothing is.

    The language is judged by the caller, who knows which there are. Addresses on other channels
    than "sms" and "email" are not quoted: they may hold a token.
    """
    if fault := _text_fault("name", contact.name, NAME_CHARS_MAX):
        return fault
    if not 1 <= contact.rung <= RUNG_MAX:
        return f"rung: {contact.rung} is none; write 1 (told at once) to {RUNG_MAX}"
    for field, words in (("groups", contact.groups), ("kinds", contact.kinds)):
        if len(words) > WORDS_MAX:
            return f"{field}: {len(words)} are too many; at most {WORDS_MAX}, or none for all"
        for number, word in enumerate(words):
            if fault := _text_fault(f"{field}[{number}]", word, WORD_CHARS_MAX):
                return fault
    for field, text in (("hours", contact.hours), ("quiet", contact.quiet)):
        if fault := _range_fault(field, text):
            return fault
    if len(contact.addresses) > ADDRESSES_MAX:
        return f"addresses: {len(contact.addresses)} are too many; at most {ADDRESSES_MAX}"
    seen: set[tuple[str, str]] = set()
    for number, address in enumerate(contact.addresses):
        if fault := _address_fault(f"addresses[{number}]", address):
            return fault
        if (address.channel, address.to) in seen:
            return f"addresses[{number}]: stands there twice; leave one of the two"
        seen.add((address.channel, address.to))
    return None


def on_duty(contact: Contact, local: time) -> bool:
    """Whether the local time of day is in the contact's hours of duty; the end is not.

    Raises:
        ValueError: `hours` is no range; `contact_fault` would have said so.
    """
    return not contact.hours or _within(contact.hours, local)


def quiet_now(contact: Contact, local: time) -> bool:
    """Whether the local time of day is in the contact's quiet hours; the end is not.

    Raises:
        ValueError: `quiet` is no range; `contact_fault` would have said so.
    """
    return bool(contact.quiet) and _within(contact.quiet, local)


def _within(text: str, local: time) -> bool:
    begins, ends = _range(text)
    if begins < ends:
        return begins <= local < ends
    return local >= begins or local < ends


def _range(text: str) -> tuple[time, time]:
    """Begin and end; 24:00 is the midnight after the begin."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text}" is no range of hours; write it like "22:00-06:00"')
    hour, minute, end_hour, end_minute = map(int, found.groups())
    return time(hour, minute), time(end_hour % 24, end_minute)


def _range_fault(field: str, text: str) -> str | None:
    if not text:
        return None
    try:
        begins, ends = _range(text)
    except ValueError as error:
        return f"{field}: {error}"
    if begins == ends:
        always = "always" if field == "hours" else "none"
        return f'{field}: "{text}" begins when it ends; leave it empty for {always}'
    return None


def _address_fault(place: str, address: Address) -> str | None:
    if not _CHANNEL.fullmatch(address.channel):
        return f'{place}.channel: "{address.channel}" is no channel; write one of notify.channels, like sms'
    if fault := _text_fault(f"{place}.to", address.to, ADDRESS_CHARS_MAX):
        return fault
    if address.channel == "sms" and not _PHONE.fullmatch(address.to):
        return (
            f'{place}.to: "{address.to}" is no phone number; write + and country code first: +4915112345678'
        )
    if address.channel == "email" and not _EMAIL.fullmatch(address.to):
        return f'{place}.to: "{address.to}" is no e-mail address; write it like anna@example.org'
    known = [severity.label for severity in Severity]
    if address.severity not in known:
        return f'{place}.severity: "{address.severity}" is none; write {", ".join(known[:-1])} or {known[-1]}'
    return None


def _text_fault(place: str, text: str, chars_max: int) -> str | None:
    if not text.strip():
        return f"{place}: is empty; write something or leave it out"
    if any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in text):
        return f"{place}: holds a control character or a line break; write it in one line"
    if text != text.strip():
        return f"{place}: begins or ends with a space; take it out"
    if len(text) > chars_max:
        return f"{place}: has {len(text)} characters; at most {chars_max}"
    return None
