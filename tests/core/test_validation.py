"""Document 0's message rules (S0-051…062, S0-085, S0-087; decisions 7–9)."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.messages import RawMessage, Reason, Rejection
from gateway.core.readings import FLAG_CLOCK_AHEAD, FLAG_CLOCK_UNTRUSTED, Reading
from gateway.core.validation import Rules, Trimmed, one_too_many, parse

RECEIVED_MS = 1_764_081_005_000  # 2025-11-25T14:30:05Z
HOUR_MS = 3_600_000
UTC_SITE = Rules()
GOOD: dict[str, Any] = {
    "cow_id": "TEST_COW_001",
    "timestamp": "2025-11-25T14:30:00Z",
    "temperature": 38.5,
    "fxa": -0.04,
    "mya": 0.01,
    "rza": -0.88,
    "sxg": -2.88,
    "lyg": 0.14,
    "dzg": 1.87,
}


def judge(
    payload: bytes | dict[str, Any],
    topic: str = "artemis/sensors/TEST_COW_001",
    *,
    rules: Rules = UTC_SITE,
    trusted: bool = True,
) -> Reading | Trimmed | Rejection:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return parse(RawMessage(topic, raw, "client", RECEIVED_MS, 12.5), rules, clock_trusted=trusted)


def with_(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in names}


def test_the_documented_message_becomes_a_reading() -> None:
    assert judge(GOOD) == Reading(
        cow_id="TEST_COW_001",
        timestamp_ms=1_764_081_000_000,
        temperature_c=38.5,
        fxa_g=-0.04,
        mya_g=0.01,
        rza_g=-0.88,
        sxg_dps=-2.88,
        lyg_dps=0.14,
        dzg_dps=1.87,
        received_ms=RECEIVED_MS,
        received_s=12.5,
    )


@pytest.mark.parametrize(
    ("payload", "reason", "line"),
    [
        (b"\xff{}", Reason.NOT_UTF8, "Payload is not UTF-8 text: byte 0 of 3"),
        (b"", Reason.NOT_JSON_OBJECT, "Payload is not valid JSON: "),
        (b"[1]", Reason.NOT_JSON_OBJECT, "Payload is not a JSON object but a list"),
        (b"[" * 60_000, Reason.NOT_JSON_OBJECT, "Payload is not valid JSON: "),
        (b'{"a":' * 10_000, Reason.NOT_JSON_OBJECT, "Payload is not valid JSON: "),
        (
            without("temperature"),
            Reason.MISSING_FIELD,
            "Missing required fields for cow_id=TEST_COW_001: temperature",
        ),
        (
            without("fxa", "rza"),
            Reason.MISSING_FIELD,
            "Missing required fields for cow_id=TEST_COW_001: fxa, rza",
        ),
        (
            with_(temperature=None),
            Reason.MISSING_FIELD,
            "Missing required fields for cow_id=TEST_COW_001: temperature",
        ),
        (without("cow_id"), Reason.MISSING_FIELD, "Missing required fields for cow_id=TEST_COW_001: cow_id"),
        (with_(cow_id="COW 1"), Reason.BAD_COW_ID, "Invalid cow_id COW 1: "),
        (with_(cow_id=7), Reason.BAD_COW_ID, "Invalid cow_id TEST_COW_001: "),
        (with_(cow_id="a\nERROR - forged"), Reason.BAD_COW_ID, "Invalid cow_id 'a\\nERROR - forged': "),
        (
            with_(cow_id="TEST_COW_002"),
            Reason.COW_ID_NOT_TOPIC,
            "cow_id=TEST_COW_002 does not match its topic ",
        ),
        (
            with_(timestamp="yesterday"),
            Reason.BAD_TIMESTAMP,
            "Invalid timestamp for cow_id=TEST_COW_001: yesterday ",
        ),
        (with_(timestamp="2025-11-25"), Reason.BAD_TIMESTAMP, "Invalid timestamp for cow_id=TEST_COW_001: "),
        (
            with_(timestamp=1764081000),
            Reason.BAD_TIMESTAMP,
            "Invalid timestamp for cow_id=TEST_COW_001: 1764081000 ",
        ),
        (
            with_(timestamp="9999-12-31T23:59:59-12:00"),
            Reason.TIMESTAMP_IN_FUTURE,
            "Timestamp in the future ",
        ),
        (with_(timestamp="1999-12-31T23:59:59Z"), Reason.TIMESTAMP_TOO_OLD, "Timestamp too old "),
        (
            with_(timestamp="2025-11-26T14:30:06Z"),
            Reason.TIMESTAMP_IN_FUTURE,
            "Timestamp in the future for cow_id=TEST_COW_001: 2025-11-26T14:30:06Z is 24.0 h ahead",
        ),
        (
            with_(temperature=50.0),
            Reason.TEMPERATURE_OUT_OF_RANGE,
            "Temperature out of range for cow_id=TEST_COW_001: 50.0°C (valid range: 35.0-42.0°C)",
        ),
        (with_(temperature=34.99), Reason.TEMPERATURE_OUT_OF_RANGE, "Temperature out of range "),
        (
            with_(temperature="38.5"),
            Reason.BAD_TYPE,
            "Invalid temperature for cow_id=TEST_COW_001: 38.5 is not a ",
        ),
        (
            with_(temperature=True),
            Reason.BAD_TYPE,
            "Invalid temperature for cow_id=TEST_COW_001: True is not a ",
        ),
        (
            with_(temperature=float("nan")),
            Reason.BAD_TYPE,
            "Invalid temperature for cow_id=TEST_COW_001: nan ",
        ),
        (with_(fxa=float("inf")), Reason.BAD_TYPE, "Invalid fxa for cow_id=TEST_COW_001: inf "),
        (with_(fxa=10**400), Reason.BAD_TYPE, "Invalid fxa for cow_id=TEST_COW_001: 1"),
        (
            with_(mya=[1]),
            Reason.BAD_TYPE,
            "Invalid mya for cow_id=TEST_COW_001: a list is not a finite number",
        ),
        (
            with_(rza={}),
            Reason.BAD_TYPE,
            "Invalid rza for cow_id=TEST_COW_001: a JSON object is not a finite number",
        ),
        (
            with_(rza=-2.01),
            Reason.ACCELERATION_OUT_OF_RANGE,
            "Acceleration out of range for cow_id=TEST_COW_001: rza",
        ),
    ],
)
def test_what_is_wrong_is_named(payload: bytes | dict[str, Any], reason: Reason, line: str) -> None:
    verdict = judge(payload)
    assert isinstance(verdict, Rejection)
    assert verdict.reason is reason
    assert verdict.text.startswith(line)
    assert verdict.text.isprintable()


def test_the_first_broken_rule_in_documented_order_is_the_one_named() -> None:
    verdict = judge(with_(timestamp="x", temperature=50, fxa="y"))
    assert isinstance(verdict, Rejection)
    assert verdict.reason is Reason.BAD_TIMESTAMP


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 35.0},
        {"temperature": 42.0},
        {"temperature": 39},
        {"fxa": -2.0, "mya": 2, "rza": 2.0},
        {"sxg": None, "lyg": 2000.0, "state": "lying", "motion_intensity": 0},
        {"unknown_field": {"deep": [1, 2]}},
    ],
)
def test_bounds_are_inclusive_and_foreign_fields_are_ignored(changes: dict[str, Any]) -> None:
    assert isinstance(judge(with_(**changes)), Reading)


FULL = Reading(
    cow_id="TEST_COW_001",
    timestamp_ms=1_764_081_000_000,
    temperature_c=38.5,
    fxa_g=-0.04,
    mya_g=0.01,
    rza_g=-0.88,
    sxg_dps=-2.88,
    lyg_dps=0.14,
    dzg_dps=1.87,
    state="lying",
    motion_intensity=55.5,
    received_ms=RECEIVED_MS,
    received_s=12.5,
)


def test_every_field_arrives() -> None:
    assert judge(with_(state="lying", motion_intensity=55.5)) == FULL


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"state": "dancing"}, {"state": None}),
        ({"sxg": 2000.1}, {"sxg_dps": None}),
        ({"lyg": "fast"}, {"lyg_dps": None}),
        ({"dzg": True}, {"dzg_dps": None}),
        ({"motion_intensity": -0.1}, {"motion_intensity": None}),
        ({"motion_intensity": 100.1}, {"motion_intensity": None}),
    ],
)
def test_a_dropped_field_costs_no_other(changes: dict[str, Any], lost: dict[str, None]) -> None:
    verdict = judge(with_(**{"state": "lying", "motion_intensity": 55.5, **changes}))
    ((name, value),) = changes.items()
    kept = msgspec.structs.replace(FULL, **lost)
    assert verdict == Trimmed(kept, f"Dropped optional fields for cow_id=TEST_COW_001: {name}={value}")


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 35.0},
        {"temperature": 42.0},
        {"fxa": -2.0, "mya": 2, "rza": 2.0},
        {"sxg": -2000.0, "lyg": 2000.0, "motion_intensity": 0},
        {"motion_intensity": 0.5},
        {"motion_intensity": 100},
        {"timestamp": "2000-01-01T00:00:00Z"},
    ],
)
def test_bounds_are_the_same_where_an_optional_field_is_dropped(changes: dict[str, Any]) -> None:
    verdict = judge(with_(state="dancing", **changes))
    assert isinstance(verdict, Trimmed)
    assert verdict.warning == "Dropped optional fields for cow_id=TEST_COW_001: state=dancing"
    assert verdict.reading == judge(with_(**changes))


@pytest.mark.parametrize(("second", "flags"), [(5, 0), (6, FLAG_CLOCK_AHEAD)])
def test_exactly_five_minutes_ahead_is_not_flagged(second: int, flags: int) -> None:
    for state in ("lying", "dancing"):
        verdict = judge(with_(timestamp=f"2025-11-25T14:35:0{second}Z", state=state))
        reading = verdict.reading if isinstance(verdict, Trimmed) else verdict
        assert isinstance(reading, Reading)
        assert reading.flags == flags


def test_an_instant_is_whole_milliseconds_wherever_it_is_read() -> None:
    for state in ("lying", "dancing"):
        verdict = judge(with_(timestamp="2025-11-25T14:30:00.123999Z", state=state))
        reading = verdict.reading if isinstance(verdict, Trimmed) else verdict
        assert isinstance(reading, Reading)
        assert repr(reading.timestamp_ms) == "1764081000123"


def test_a_naive_timestamp_is_in_the_sites_zone_where_a_field_is_dropped_too() -> None:
    verdict = judge(
        with_(timestamp="2025-11-25T15:30:00", state="dancing"), rules=Rules(ZoneInfo("Europe/Berlin"))
    )
    assert isinstance(verdict, Trimmed)
    assert verdict.reading.timestamp_ms == 1_764_081_000_000


def test_a_date_and_an_hour_are_enough() -> None:
    reading = judge(with_(timestamp="20251125T14"))
    assert isinstance(reading, Reading)
    assert reading.timestamp_ms == 1_764_079_200_000


TOPIC_LINE = (
    "cow_id=TEST_COW_002 does not match its topic artemis/sensors/TEST_COW_001: "
    "the topic's last level must be the cow_id"
)


@pytest.mark.parametrize(
    ("changes", "rejection"),
    [
        ({"cow_id": "TEST_COW_002"}, Rejection(Reason.COW_ID_NOT_TOPIC, TOPIC_LINE)),
        (
            {"timestamp": "yesterday"},
            Rejection(
                Reason.BAD_TIMESTAMP,
                "Invalid timestamp for cow_id=TEST_COW_001: yesterday "
                "(expected ISO 8601 date and time, e.g. 2025-11-19T14:30:00Z)",
                "TEST_COW_001",
            ),
        ),
        (
            {"timestamp": "1999-12-31T23:59:59Z"},
            Rejection(
                Reason.TIMESTAMP_TOO_OLD,
                "Timestamp too old for cow_id=TEST_COW_001: 1999-12-31T23:59:59Z "
                "(earliest accepted: 2000-01-01T00:00:00Z)",
                "TEST_COW_001",
            ),
        ),
        (
            {"timestamp": "2025-11-26T20:30:05Z", "state": 7},
            Rejection(
                Reason.TIMESTAMP_IN_FUTURE,
                "Timestamp in the future for cow_id=TEST_COW_001: 2025-11-26T20:30:05Z is 30.0 h ahead of "
                "the gateway's clock (limit 24 h; set the collar's clock)",
                "TEST_COW_001",
                timestamp_ms=1_764_081_005_000 + 30 * HOUR_MS,
            ),
        ),
        (
            {"mya": 2.5},
            Rejection(
                Reason.ACCELERATION_OUT_OF_RANGE,
                "Acceleration out of range for cow_id=TEST_COW_001: mya=2.5g (valid range: -2.0-2.0g)",
                "TEST_COW_001",
                timestamp_ms=1_764_081_000_000,
            ),
        ),
    ],
)
def test_a_rejection_says_everything(changes: dict[str, Any], rejection: Rejection) -> None:
    assert judge(with_(**changes)) == rejection


def test_one_animal_too_many_says_which_and_what_to_look_for() -> None:
    assert one_too_many("COW_9", 5000) == Rejection(
        Reason.TOO_MANY_ANIMALS,
        "Too many animals: cow_id=COW_9 would be number 5001 (limit 5000; check for collars that invent ids)",
    )


@pytest.mark.parametrize(("length", "shown"), [(80, "x" * 80), (81, "x" * 77 + "...")])
def test_a_long_foreign_value_is_cut_at_80_characters(length: int, shown: str) -> None:
    verdict = judge(with_(timestamp="x" * length))
    assert isinstance(verdict, Rejection)
    assert verdict.text.startswith(f"Invalid timestamp for cow_id=TEST_COW_001: {shown} (expected ")


@pytest.mark.parametrize(
    "text",
    [
        "2025-11-25T14:30:00Z",
        "2025-11-25T14:30:00+00:00",
        "2025-11-25T15:30:00+01:00",
        "2025-11-25T14:30:00",
        "2025-11-25 14:30:00.000000",
        "20251125T143000Z",
    ],
)
def test_the_same_instant_written_differently_is_the_same_instant(text: str) -> None:
    verdict = judge(with_(timestamp=text))
    assert isinstance(verdict, Reading)
    assert verdict.timestamp_ms == 1_764_081_000_000


def test_a_naive_timestamp_is_in_the_sites_zone() -> None:
    verdict = judge(with_(timestamp="2025-11-25T15:30:00"), rules=Rules(timezone=ZoneInfo("Europe/Berlin")))
    assert isinstance(verdict, Reading)
    assert verdict.timestamp_ms == 1_764_081_000_000


@pytest.mark.parametrize(
    ("ahead_ms", "trusted", "flags"),
    [
        (5 * 60_000, True, 0),
        (5 * 60_000 + 1, True, FLAG_CLOCK_AHEAD),
        (24 * HOUR_MS, True, FLAG_CLOCK_AHEAD),
        (0, False, FLAG_CLOCK_UNTRUSTED),
        (1000 * HOUR_MS, False, FLAG_CLOCK_UNTRUSTED),
    ],
)
def test_a_collar_ahead_of_the_clock_is_flagged_not_lost(ahead_ms: int, trusted: bool, flags: int) -> None:
    from datetime import datetime

    text = datetime.fromtimestamp((RECEIVED_MS + ahead_ms) / 1000, UTC).isoformat()
    verdict = judge(with_(timestamp=text), trusted=trusted)
    assert isinstance(verdict, Reading)
    assert verdict.flags == flags


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"sxg": 2000.1}, "sxg=2000.1"),
        ({"lyg": "1"}, "lyg=1"),
        ({"dzg": True}, "dzg=True"),
        ({"state": "flying"}, "state=flying"),
        ({"state": 3}, "state=3"),
        ({"motion_intensity": -1}, "motion_intensity=-1"),
        ({"sxg": 9999, "state": "x\ny"}, "sxg=9999, state='x\\ny'"),
    ],
)
def test_a_bad_optional_field_is_dropped_with_one_warning(changes: dict[str, Any], shown: str) -> None:
    verdict = judge(with_(**changes))
    assert isinstance(verdict, Trimmed)
    assert verdict.warning == f"Dropped optional fields for cow_id=TEST_COW_001: {shown}"
    assert verdict.reading.temperature_c == 38.5
    fields = {"sxg": "sxg_dps", "lyg": "lyg_dps", "dzg": "dzg_dps"}
    assert all(getattr(verdict.reading, fields.get(name, name)) is None for name in changes)


def test_a_rejected_temperature_is_kept_as_evidence() -> None:
    verdict = judge(with_(temperature=43.0))
    assert isinstance(verdict, Rejection)
    assert (verdict.cow_id, verdict.temperature_c) == ("TEST_COW_001", 43.0)
    assert verdict.timestamp_ms == 1_764_081_000_000


def test_a_message_that_names_another_animal_is_blamed_on_none() -> None:
    verdict = judge(with_(cow_id="TEST_COW_002"))
    assert isinstance(verdict, Rejection)
    assert verdict.cow_id is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from([*GOOD, "state", "motion_intensity"]), json_values, max_size=4)
)
def test_hostile_values_are_answered_never_raised(changes: dict[str, Any]) -> None:
    verdict = judge(json.dumps(with_(**changes)).encode())
    if isinstance(verdict, Rejection):
        assert verdict.text
        assert verdict.text.isprintable()
    else:
        reading = verdict.reading if isinstance(verdict, Trimmed) else verdict
        assert 35.0 <= reading.temperature_c <= 42.0
        assert all(abs(value) <= 2.0 for value in (reading.fxa_g, reading.mya_g, reading.rza_g))


@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=200))
def test_rubbish_is_answered_never_raised(payload: bytes) -> None:
    assert isinstance(judge(payload), Rejection)
