"""What people and programs ask to be done about alerts: JSON or form fields ↔ typed. Pure.

Every fault is one sentence that names the field and what would be right.
"""

from __future__ import annotations

import re
from datetime import UTC, tzinfo
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.core.alerts import NEVER_SILENCED
from gateway.core.instants import MS_PER_MINUTE
from gateway.core.timespan import instant_ms

COMMANDS_TOPIC: Final = "artemis/commands/alerts"
"""Where commands arrive, QoS 2."""
RESPONSES_TOPIC: Final = "artemis/responses/alerts"
"""Where each is answered once."""
ID_CHARS_MAX: Final = 64
"""A UUID has 36."""
WHO_CHARS_MAX: Final = 64
NOTE_CHARS_MAX: Final = 200
"""As the audit keeps them."""
HOURS_MAX: Final = 720
"""The longest silence, 30 days: what is forgotten ends by itself within a month."""
EXPIRES_S: Final = 30
"""Age at which a command is no longer carried out (decision 25)."""
PAYLOAD_BYTES_MAX: Final = 4096
"""All fields at their longest, every character escaped as \\uXXXX: 6 × 600 = 3.6 KB."""
_ID_MAX: Final = 2**63 - 1
"""The largest row number of SQLite."""

Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
Row = Annotated[int, Meta(ge=1, le=_ID_MAX)]
Who = Annotated[str, Meta(max_length=WHO_CHARS_MAX)]
Note = Annotated[str, Meta(max_length=NOTE_CHARS_MAX)]
Subject = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}\Z")]
Kind = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,64}\Z")]
Hours = Annotated[float, Meta(gt=0, le=HOURS_MAX)]

_WANTED: Final = {
    "id": f"a text of 1 to {ID_CHARS_MAX} characters, new for every command",
    "command": "acknowledge, resolve, false_positive, silence or unsilence",
    "alert": "the number of an alert, 1 or more, or absent for the one the panel shows",
    "silence": "the number of a silence, 1 or more",
    "by": f"who says so, at most {WHO_CHARS_MAX} characters",
    "note": f"a text of at most {NOTE_CHARS_MAX} characters",
    "reason": f"a text of at most {NOTE_CHARS_MAX} characters",
    "subject": "an animal, or absent for all: 1 to 64 letters, digits or any of _ . : -",
    "kind": "a kind of alert such as fever, or absent for all: small letters, digits and _",
    "hours": f"how long, more than 0 and at most {HOURS_MAX}",
    "timestamp": "a time such as 2025-11-25T14:30:00Z, or absent",
    "origin": "web or cli, or absent",
}
_FIELD: Final = re.compile(r"`\$\.([a-z_]+)`")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")


class Order(StrEnum):
    """What a command asks for."""

    ACKNOWLEDGE = "acknowledge"
    RESOLVE = "resolve"
    FALSE_POSITIVE = "false_positive"
    SILENCE = "silence"
    UNSILENCE = "unsilence"


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One MQTT command as it is written.

    Args:
        id: the sender's; a repeated one is carried out once (decision 27).
        alert: None = the one the panel shows.
        by: who; "" = the client's id.
        note: why.
        subject: of a silence; None = all animals.
        kind: of a silence; None = all kinds.
        hours: how long a silence lasts; needed for one.
        silence: which one ends; needed for `unsilence`.
        timestamp: when it was said; None = it does not expire.
    """

    id: Id
    command: Order
    alert: Row | None = None
    by: Who = ""
    note: Note = ""
    subject: Subject | None = None
    kind: Kind | None = None
    hours: Hours | None = None
    silence: Row | None = None
    timestamp: str | None = None


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody says about an alert over HTTP."""

    by: Who
    note: Note = ""
    origin: Literal["web", "cli"] = "web"


class SilenceWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A silence somebody asks for over HTTP; without subject and kind it is the whole barn."""

    by: Who
    hours: Hours
    subject: Subject | None = None
    kind: Kind | None = None
    reason: Note = ""
    origin: Literal["web", "cli"] = "web"


class AskFault(msgspec.Struct, frozen=True):
    """Why something cannot be done as it is asked.

    Args:
        text: one sentence with the field and the remedy.
        id: of the command, where that much could be read.
    """

    text: str
    id: str | None = None


Asked = TypeVar("Asked", Command, Word, SilenceWish)


class _Named(msgspec.Struct, frozen=True):
    """The part of a command that is read when the rest is wrong."""

    id: Id


def decode(payload: bytes, wanted: type[Asked]) -> Asked | AskFault:
    """A JSON object as what is wanted."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        return AskFault(f"{len(payload)} bytes are too many: at most {PAYLOAD_BYTES_MAX}")
    try:
        return _checked(msgspec.json.decode(payload, type=wanted))
    except msgspec.ValidationError as error:
        return AskFault(_sentence(str(error), wanted), _id_of(payload))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return AskFault(f"a JSON object is needed, and this is none: {error}")


def convert(fields: dict[str, str], wanted: type[Asked]) -> Asked | AskFault:
    """The fields of a form as what is wanted; an empty one counts as absent."""
    given: dict[str, Any] = {name: text for name, text in fields.items() if text.strip()}
    try:
        return _checked(msgspec.convert(given, type=wanted, strict=False))
    except msgspec.ValidationError as error:
        return AskFault(_sentence(str(error), wanted))


def expired(command: Command, now_ms: int, zone: tzinfo = UTC) -> str | None:
    """Why a command is too old to be carried out, or None (decision 25); asked while the clock is trusted.

    Args:
        command: without a timestamp it never expires.
        now_ms: the gateway's clock, UTC epoch milliseconds.
        zone: where a timestamp without a zone belongs.
    """
    if command.timestamp is None:
        return None
    age_ms = now_ms - instant_ms(command.timestamp, now_ms, zone)
    if age_ms <= EXPIRES_S * 1000:
        return None
    age = f"{age_ms / 1000:.0f} s" if age_ms < 5 * MS_PER_MINUTE else f"{age_ms / MS_PER_MINUTE:.0f} min"
    return (
        f"timestamp: the command is {age} old and expires after {EXPIRES_S} s; "
        "send it again, or set the sender's clock"
    )


def _checked(asked: Asked) -> Asked | AskFault:
    """What types alone cannot say."""
    fault = None
    if isinstance(asked, Command):
        fault = _command_fault(asked)
    elif not asked.by.strip():
        fault = f"by is missing: {_WANTED['by']}"
    if fault is None and not isinstance(asked, Word) and asked.kind in NEVER_SILENCED:
        fault = f"kind: {asked.kind} is never silenced, a life may hang on it"
    return asked if fault is None else AskFault(fault, asked.id if isinstance(asked, Command) else None)


def _command_fault(command: Command) -> str | None:
    if command.command is Order.SILENCE and command.hours is None:
        return f"hours is missing: {_WANTED['hours']}"
    if command.command is Order.UNSILENCE and command.silence is None:
        return f"silence is missing: {_WANTED['silence']}"
    if command.timestamp is not None:
        try:
            instant_ms(command.timestamp, 0, UTC)
        except ValueError:
            return f"timestamp must be {_WANTED['timestamp']}"
    return None


def _sentence(error: str, wanted: type[msgspec.Struct]) -> str:
    """A finding of msgspec in the words of whoever wrote the message."""
    if found := _MISSING.search(error):
        return f"{found[1]} is missing: {_WANTED.get(found[1], 'needed')}"
    if found := _UNKNOWN.search(error):
        known = ", ".join(wanted.__struct_fields__)
        return f"there is no field {found[1][:40]!r}, only {known}"
    if (found := _FIELD.search(error)) and found[1] in _WANTED:
        return f"{found[1]} must be {_WANTED[found[1]]}"
    return "a JSON object is needed, for example " + _EXAMPLES[wanted.__name__]


_EXAMPLES: Final = {
    "Command": '{"id": "c-1", "command": "acknowledge", "alert": 17, "by": "Anna"}',
    "Word": '{"by": "Anna", "note": "vet called"}',
    "SilenceWish": '{"by": "Anna", "hours": 4, "subject": "COW_7", "reason": "calving"}',
}


def _id_of(payload: bytes) -> str | None:
    try:
        return msgspec.json.decode(payload, type=_Named).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
