from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.delivery import (
    ROWS_PER_MESSAGE,
    BackoffPolicy,
    Rejected,
    delay_ceiling_s,
    event_message,
    event_topic,
    next_delay,
    slice_messages,
    slice_topic,
)
from gateway.core.instants import iso_utc
from gateway.core.outbox import Event, Slice
from gateway.core.readings import Reading


def test_ceilings_double_from_5_to_60_s_as_documented_s0_033() -> None:
    assert [delay_ceiling_s(n, BackoffPolicy()) for n in range(1, 8)] == [5, 10, 20, 40, 60, 60, 60]


@given(
    attempt=st.integers(min_value=0, max_value=10**9),
    unit=st.floats(min_value=0, max_value=1),
    factor=st.floats(min_value=1, max_value=10),
)
def test_a_delay_never_leaves_its_bounds(attempt: int, unit: float, factor: float) -> None:
    policy = BackoffPolicy(initial_s=5, max_s=60, factor=factor)
    assert 0 <= next_delay(attempt, policy, unit) <= delay_ceiling_s(attempt, policy) <= 60


def test_jitter_is_full() -> None:
    assert next_delay(3, BackoffPolicy(), 0.0) == 0
    assert next_delay(3, BackoffPolicy(), 0.5) == 10
    assert next_delay(3, BackoffPolicy(), 1.0) == 20


def test_an_event_keeps_its_fields_and_gets_its_stable_id() -> None:
    event = Event(7, "alert", 0, b'{"a": 1.50, "message_id": "forged", "nested": {"x": [1, null]}}')
    body = event_message(event, "gw", "e1")
    assert isinstance(body, bytes)
    assert json.loads(body) == {
        "a": 1.5,
        "nested": {"x": [1, None]},
        "message_id": "gw:e1:7",
        "gateway_id": "gw",
        "seq": 7,
    }
    assert event_topic("barn", "gw", "alert") == "barn/gw/events/alert"


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"\xff", b"null", b"3"])
def test_a_payload_that_is_no_object_is_rejected(payload: bytes) -> None:
    assert isinstance(event_message(Event(1, "alert", 0, payload), "gw", "e"), Rejected)


def test_a_slice_is_cut_into_bounded_messages_that_together_hold_every_row_once() -> None:
    readings = [Reading("C1", 1000 * n, 38.5, 0.1, 0.2, 0.9) for n in range(ROWS_PER_MESSAGE + 1)]
    bodies = [json.loads(body) for body in slice_messages(Slice(0, "C1", 3), readings, "gw")]
    assert [len(body["rows"]) for body in bodies] == [ROWS_PER_MESSAGE, 1]
    assert {(body["cow_id"], body["hour"], body["rev"]) for body in bodies} == {("C1", 0, 3)}
    stamps = [row["timestamp"] for body in bodies for row in body["rows"]]
    assert stamps == [iso_utc(reading.timestamp_ms) for reading in readings]
    assert bodies[0]["rows"][0] == {
        "timestamp": "1970-01-01T00:00:00Z",
        "temperature": 38.5,
        "fxa": 0.1,
        "mya": 0.2,
        "rza": 0.9,
    }
    assert slice_topic("barn", "gw", "C1") == "barn/gw/readings/C1"


def test_a_full_message_stays_below_128_kib() -> None:
    fat = Reading(
        "C" * 64, 1_700_000_000_123, 38.123456789, *[-1.2345678901234567] * 3, *[-1999.1234567890123] * 3
    )
    fat = Reading(
        **{f: getattr(fat, f) for f in fat.__struct_fields__} | {"state": "r" * 24, "motion_intensity": 0.1}
    )
    (body,) = slice_messages(Slice(2**20, "C" * 64, 10**6), [fat] * ROWS_PER_MESSAGE, "g" * 32)
    assert len(body) <= 128 * 1024


@pytest.mark.parametrize(
    ("instant_ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_764_081_000_000, "2025-11-25T14:30:00Z"),
        (1_764_081_000_005, "2025-11-25T14:30:00.005Z"),
    ],
)
def test_instants_are_written_in_utc(instant_ms: int, text: str) -> None:
    assert iso_utc(instant_ms) == text
