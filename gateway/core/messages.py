"""What arrives: one MQTT publish as the broker hands it over, and why one is refused."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class RawMessage(msgspec.Struct, frozen=True, gc=False):
    """One publish from a client, before anyone has looked at its payload.

    `received_ms` is UTC epoch milliseconds by the gateway's clock, `received_s` the same
    moment on its monotonic clock (it never steps back).
    """

    topic: str
    payload: bytes
    client_id: str
    received_ms: int
    received_s: float
    qos: int = 0
    retain: bool = False


class Reason(StrEnum):
    """Why a message was not stored; the key of the reject counters and of a dead letter."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON_OBJECT = "not_json_object"
    MISSING_FIELD = "missing_field"
    BAD_COW_ID = "bad_cow_id"
    COW_ID_NOT_TOPIC = "cow_id_not_topic"
    BAD_TIMESTAMP = "bad_timestamp"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    TIMESTAMP_IN_FUTURE = "timestamp_in_future"
    BAD_TYPE = "bad_type"
    TEMPERATURE_OUT_OF_RANGE = "temperature_out_of_range"
    ACCELERATION_OUT_OF_RANGE = "acceleration_out_of_range"
    TOO_MANY_ANIMALS = "too_many_animals"
    TOPIC_REFUSED = "topic_refused"


class Rejection(msgspec.Struct, frozen=True):
    """A message that is not stored, and the sentence that goes to the log.

    Args:
        reason: the kind of fault.
        text: the whole log line after `ERROR - `, naming animal, field and value.
        cow_id: the animal it would have been, when that much could be read.
        temperature_c: the offending value of a `temperature_out_of_range`; 42.0–44.0 °C
            counts as evidence for a fever (decision 4).
        timestamp_ms: the reading's instant where it could be read.
    """

    reason: Reason
    text: str
    cow_id: str | None = None
    temperature_c: float | None = None
    timestamp_ms: int | None = None


class DeadLetter(msgspec.Struct, frozen=True):
    """A rejected message as it is kept: enough to find the sender and to replay it."""

    received_ms: int
    topic: str
    payload: bytes
    client_id: str
    reason: Reason
    text: str
    cow_id: str | None = None
