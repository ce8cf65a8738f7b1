"""One row of a recording (CSV in document 0's fields, JSON lines) → the message a collar would send. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

REQUIRED = ("cow_id", "timestamp", "temperature", "fxa", "mya", "rza")
OPTIONAL = ("sxg", "lyg", "dzg", "state", "motion_intensity")
FIELDS = (*REQUIRED, *OPTIONAL)
"""Document 0's fields in its order; any other column (labels, notes) is ignored."""
TEXTS = frozenset({"cow_id", "timestamp", "state"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordedMessage(msgspec.Struct, frozen=True):
    """A message and the instant it was recorded at (UTC epoch ms; naive times are UTC)."""

    at_ms: int
    cow_id: str
    payload: bytes


class BadRow(msgspec.Struct, frozen=True):
    """A row that cannot be turned into a message, with the reason."""

    why: str


def wire_of_row(row: Mapping[str, str], temperature_c: float | None) -> dict[str, object]:
    """The wire message of one row of text; an empty cell was not sent.

    What should be a number and is none stays text, so that validation names it.

    Args:
        row: cells by column.
        temperature_c: stands in where the row has none; None = leave it out.
    """
    fields: dict[str, object] = {}
    for name in FIELDS:
        text = row.get(name, "").strip()
        if text:
            fields[name] = text if name in TEXTS else _number(text)
    if temperature_c is not None:
        fields.setdefault("temperature", temperature_c)
    return fields


def message_of(wire: Mapping[str, object]) -> RecordedMessage | BadRow:
    """A wire message with the instant at which to send it, for a replay.

    Only what is needed to send it at its time is checked here; the gateway judges the rest.
    """
    cow_id, timestamp = wire.get("cow_id"), wire.get("timestamp")
    if not (isinstance(cow_id, str) and cow_id and isinstance(timestamp, str) and timestamp):
        return BadRow("the columns cow_id and timestamp must not be empty")
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return BadRow(f"timestamp {timestamp!r} is no ISO 8601 date and time")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    for name in FIELDS:
        value = wire.get(name)
        if isinstance(value, str) and name not in TEXTS:
            return BadRow(f"{name} {value!r} is no number")
    at_ms = round((moment - _EPOCH).total_seconds() * 1000)
    payload = msgspec.json.encode({**wire, "timestamp": moment.isoformat()})
    return RecordedMessage(at_ms, cow_id, payload)


def _number(text: str) -> float | str:
    """A decimal number; `1_000`, `nan` and `inf` are none to a collar either."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if "_" in text or not math.isfinite(number) else number
