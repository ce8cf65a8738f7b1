"""What leaves the gateway: log entries with a stable id, and slices of readings."""

from __future__ import annotations

import msgspec


class Event(msgspec.Struct, frozen=True):
    """One row of the append-only outbox.

    Args:
        seq: position in the log, from 1, never reused within an epoch.
        kind: "alert" today; families add theirs.
        created_ms: UTC epoch milliseconds.
        payload: a JSON object, encoded.
    """

    seq: int
    kind: str
    created_ms: int
    payload: bytes


class Slice(msgspec.Struct, frozen=True):
    """All readings of one animal in one hour that a bulk destination should upsert.

    Args:
        hour: hours since the Unix epoch (UTC).
        cow_id: the animal.
        rev: the number under which it was taken for shipping, higher each time; acknowledging it clears
            the slice only if no reading came meanwhile.
    """

    hour: int
    cow_id: str
    rev: int


def message_id(gateway_id: str, epoch: str, seq: int) -> str:
    """The id receivers deduplicate on (decision 39)."""
    return f"{gateway_id}:{epoch}:{seq}"
