"""What leaves the gateway, what a destination answers, and how long to wait before asking again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from gateway.core.outbox import Event, Slice, message_id
from gateway.core.readings import Reading, wire_fields

ROWS_PER_MESSAGE = 400
"""Readings in one bulk message. 400 rows x at most 290 bytes (every field sent with 17 digits) =
116 KB, below the 128 KiB a cloud broker commonly takes; an hour at one reading a minute is 60 rows."""

_EXPONENT_MAX = 64
"""2.0 ** 64 is beyond any configured maximum; without a cap a long outage overflows a float."""


class Delivered(msgspec.Struct, frozen=True):
    """The destination has it and said so."""


class RetryLater(msgspec.Struct, frozen=True):
    """The line or the destination is down; nothing is lost, try again."""

    why: str


class Rejected(msgspec.Struct, frozen=True):
    """The destination has understood and will never take it; count it and go on."""

    why: str


class BackoffPolicy(msgspec.Struct, frozen=True):
    """How long to wait between attempts (decision 32; S0-031..033 `mqtt.reconnect.*`)."""

    initial_s: float = 5.0
    max_s: float = 60.0
    factor: float = 2.0


def delay_ceiling_s(attempt: int, policy: BackoffPolicy) -> float:
    """Longest wait after the given failed attempt (1, 2, ...): 5, 10, 20, 40, 60, 60 s by default."""
    exponent = min(max(attempt, 1) - 1, _EXPONENT_MAX)
    return min(policy.max_s, policy.initial_s * policy.factor**exponent)


def next_delay(attempt: int, policy: BackoffPolicy, random_unit: float) -> float:
    """Seconds to wait after the given failed attempt, with full jitter.

    Full jitter (uniform between 0 and the ceiling) keeps a thousand gateways from knocking in
    step after their common upstream comes back.

    Args:
        attempt: how many attempts have failed in a row, from 1.
        policy: bounds and growth.
        random_unit: uniform in 0..1, drawn by the caller.
    """
    return random_unit * delay_ceiling_s(attempt, policy)


def event_topic(prefix: str, gateway_id: str, kind: str) -> str:
    """Where an event of the outbox goes."""
    return f"{prefix}/{gateway_id}/events/{kind}"


def event_message(event: Event, gateway_id: str, epoch: str) -> bytes | Rejected:
    """The event's own JSON object plus `message_id`, `gateway_id` and `seq` (decision 39)."""
    try:
        body = msgspec.json.decode(event.payload, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:  # also its child ValidationError: JSON, but no object
        return Rejected(f"payload is no JSON object: {error}")
    stamp = {
        "message_id": message_id(gateway_id, epoch, event.seq),
        "gateway_id": gateway_id,
        "seq": event.seq,
    }
    return msgspec.json.encode({**body, **stamp})


def slice_topic(prefix: str, gateway_id: str, cow_id: str) -> str:
    """Where the readings of one animal go."""
    return f"{prefix}/{gateway_id}/readings/{cow_id}"


def slice_messages(part: Slice, readings: Sequence[Reading], gateway_id: str) -> Iterator[bytes]:
    """Bulk messages of one animal's hour; the receiver upserts rows by (cow_id, timestamp).

    `hour` counts hours since the Unix epoch. The rows of several messages do not overlap, so
    each can be applied alone and applied again without harm.
    """
    for rows in _pieces(readings):
        yield msgspec.json.encode(
            {
                "gateway_id": gateway_id,
                "cow_id": part.cow_id,
                "hour": part.hour,
                "rev": part.rev,
                "rows": [reading_row(reading) for reading in rows],
            }
        )


def _pieces(readings: Sequence[Reading]) -> Iterator[Sequence[Reading]]:
    """Cut a slice into pieces of at most `ROWS_PER_MESSAGE`."""
    for start in range(0, len(readings), ROWS_PER_MESSAGE):
        yield readings[start : start + ROWS_PER_MESSAGE]


def reading_row(reading: Reading) -> dict[str, str | float]:
    """One row of a slice: what was not sent is left out, and the animal, which the slice names."""
    fields = wire_fields(reading)
    return {name: value for name, value in fields.items() if value is not None and name != "cow_id"}
