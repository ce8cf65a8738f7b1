"""One row of a recording (CSV in document 0's fields) → the message a collar would have sent. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

NUMBERS = ("temperature", "fxa", "mya", "rza", "sxg", "lyg", "dzg", "motion_intensity")
TEXTS = ("cow_id", "timestamp", "state")
"""Columns that are sent; any other column (labels, notes) is ignored."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordedMessage(msgspec.Struct, frozen=True):
    """A message and the instant it was recorded at (UTC epoch ms; naive times are UTC)."""

    at_ms: int
    cow_id: str
    payload: bytes


class BadRow(msgspec.Struct, frozen=True):
    """A row that cannot be turned into a message, with the reason."""

    why: str


def message_of(row: Mapping[str, str | None], temperature_c: float) -> RecordedMessage | BadRow:
    """The wire message of one row; `temperature_c` stands in where the recording has none.

    Only what is needed to send it at its time is checked here; the gateway judges the rest.
    """
    fields: dict[str, object] = {name: value for name in TEXTS if (value := row.get(name))}
    cow_id, timestamp = fields.get("cow_id"), fields.get("timestamp")
    if not isinstance(cow_id, str) or not isinstance(timestamp, str):
        return BadRow("the columns cow_id and timestamp must not be empty")
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return BadRow(f"timestamp {timestamp!r} is no ISO 8601 date and time")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    for name in NUMBERS:
        text = row.get(name)
        if text:
            try:
                fields[name] = float(text)
            except ValueError:
                return BadRow(f"{name} {text!r} is no number")
    fields.setdefault("temperature", temperature_c)
    at_ms = round((moment - _EPOCH).total_seconds() * 1000)
    fields["timestamp"] = moment.isoformat()
    return RecordedMessage(at_ms, cow_id, json.dumps(fields).encode())
