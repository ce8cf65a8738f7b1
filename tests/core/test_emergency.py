"""Calls for help and the emergency stop: whatever is sent, somebody hears of it."""

import gzip
import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core.alerts import CALLS, Alert, State
from gateway.core.emergency import (
    CONTENT_BYTES_MAX,
    MESSAGE_CHARS_MAX,
    SENTENCE_CHARS_MAX,
    STOP_TOPICS,
    SUBJECT_CHARS_MAX,
    read_call,
    read_stop,
    stop_state,
)
from gateway.core.severity import Severity

ARRIVAL_MS = 1_761_991_200_000  # 2025-11-01T10:00:00Z
DOCUMENT_3 = {
    "alert_type": "panic",
    "severity": "critical",
    "message": "Emergency assistance needed",
    "location": {"lat": 12.9716, "lon": 77.5946},
    "timestamp": "2025-11-01T10:00:00Z",
}


def call(payload, topic="alert/panic/guard-789", client_id="paho-1"):
    if not isinstance(payload, bytes):
        payload = json.dumps(payload).encode()
    return read_call(topic, payload, ARRIVAL_MS, client_id)


def stop(payload, client_id="mower-1"):
    if not isinstance(payload, bytes):
        payload = json.dumps(payload).encode()
    return read_stop(payload, ARRIVAL_MS, client_id)


def test_the_documented_panic_is_understood_verbatim():
    finding = call(DOCUMENT_3)
    assert (finding.subject, finding.kind, finding.severity) == ("guard-789", "panic", Severity.CRITICAL)
    assert finding.sentence == "PANIC from guard-789: Emergency assistance needed, at 12.9716, 77.5946"
    assert finding.detail == "lat=12.9716 lon=77.5946"
    assert (finding.present, finding.ended, finding.confidence) == (True, False, 1.0)


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_the_topic_says_what_kind_of_help_is_needed(kind):
    finding = call(b"", topic=f"alert/{kind}/barn-3")
    assert (finding.kind, finding.sentence) == (kind, f"{kind.upper()} from barn-3")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", ""),
        (b"{}", ""),
        (b"1", ""),
        (b"[]", ""),
        (b" \n ", ""),
        (b'"help me"', ": help me"),
        (b"help\r\nme\tnow", ": help me now"),
        ("Kälber".encode(), ": Kälber"),
        ("Hilfe, Kälber brechen aus".encode("latin-1"), ": Hilfe, K\ufffdlber brechen aus"),
        (b'{"message": "cut sh', ': {"message": "cut sh'),
        (b"\xff\xfe\x00\x81", ": (message unreadable, 4 bytes)"),
        (b"\x1f\x8bno gzip at all\xff\xff\xff", ": \ufffdno gzip at all\ufffd\ufffd\ufffd"),
        (gzip.compress(b'{"message": "packed"}'), ": packed"),
        (b'{"message": 7, "note": "in the note"}', ": in the note"),
        (b'{"message": "", "reason": "the reason"}', ": the reason"),
        (b'{"payload": {"message": "in an envelope"}, "sender": "x"}', ": in an envelope"),
        (b'{"payload": "just text"}', ": just text"),
    ],
)
def test_whatever_is_sent_is_a_call_for_help(payload, said):
    finding = call(payload)
    assert finding.severity is Severity.CRITICAL
    assert finding.sentence == f"PANIC from guard-789{said}"


@pytest.mark.parametrize(
    ("level", "subject"),
    [
        ("guard-789", "guard-789"),
        ("Anna Müller", "Anna_M_ller"),
        ("", "unknown"),
        ("a" * 100, "a" * SUBJECT_CHARS_MAX),
        ("<b>", "_b_"),
    ],
)
def test_who_calls_is_made_fit_for_a_key(level, subject):
    assert call(b"", topic=f"alert/sos/{level}").subject == subject


def test_a_call_from_nobody_names_the_client():
    assert call(b"", topic="alert/fire/").sentence == "FIRE from unknown (client paho-1)"


def test_a_call_happens_when_it_arrives_and_a_wrong_clock_is_named():
    finding = call({"timestamp": "2019-04-05T06:07:08Z"})
    assert finding.at_ms == finding.onset_ms == ARRIVAL_MS
    assert finding.sentence == "PANIC from guard-789 (its clock says 2019-04-05T06:07:08Z)"


@pytest.mark.parametrize(
    ("timestamp", "named"),
    [
        ("2025-11-01T10:05:00Z", False),
        ("2025-11-01T10:05:01Z", True),
        ("2025-11-01T09:54:59Z", True),
        ("2025-11-01T15:30:00+05:30", False),
        ("2025-11-01T10:00:00", False),
        (1_761_991_200, False),
        (1_761_991_200_000, False),
        (1_761_991_200.5, False),
        (1_761_000_000, True),
        ("soon", False),
        (True, False),
        (1e300, False),
        (None, False),
        ({}, False),
    ],
)
def test_only_a_clock_that_is_far_off_is_named(timestamp, named):
    assert ("its clock says" in call({"timestamp": timestamp}).sentence) is named


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ({"location": {"latitude": "12.5", "longitude": "-7"}}, "lat=12.5 lon=-7"),
        ({"gps": {"lat": -90, "lng": 180}}, "lat=-90 lon=180"),
        ({"lat": 1.23456789, "lon": 2}, "lat=1.234568 lon=2"),
        ({"payload": {"position": {"lat": 5, "lon": 6}}}, "lat=5 lon=6"),
        ({"location": {"lat": 0, "lon": 0}}, ""),
        ({"location": {"lat": 91, "lon": 0}}, ""),
        ({"location": {"lat": 1, "lon": 181}}, ""),
        ({"location": {"lat": 1}}, ""),
        ({"location": {"lat": True, "lon": 1}}, ""),
        ({"location": {"lat": "nan", "lon": 1}}, ""),
        ({"location": {"lat": 10**400, "lon": 1}}, ""),
        ({"location": {"lat": [1], "lon": 1}}, ""),
        ({"location": "in the barn"}, ""),
    ],
)
def test_a_place_is_given_where_it_is_plausible(content, detail):
    finding = call(content)
    assert finding.detail == detail
    assert (", at " in finding.sentence) is bool(detail)


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("low", " (sender says: low)"),
        ("HIGH", " (sender says: HIGH)"),
        ("Critical", ""),
        ("", ""),
        (3, ""),
        ("x" * 99, f" (sender says: {'x' * 16})"),
    ],
)
def test_the_senders_own_severity_is_kept_and_not_obeyed(word, kept):
    finding = call({"severity": word})
    assert finding.sentence == f"PANIC from guard-789{kept}"
    assert finding.severity is Severity.CRITICAL


def test_a_long_message_is_cut():
    finding = call({"message": "a" * 5000})
    assert finding.sentence == f"PANIC from guard-789: {'a' * MESSAGE_CHARS_MAX}"


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 65_000,
        b'{"a":' * 13_000,
        b'{"lat":' + b"9" * 5000 + b"}",
        gzip.compress(b" " * (4 * CONTENT_BYTES_MAX)),
        gzip.compress(b"x" * 100)[:-20],
        b'{"message": "\\ud800"}',
    ],
)
def test_hostile_payloads_are_calls_too(payload):
    finding = call(payload)
    assert finding.severity is Severity.CRITICAL
    assert len(finding.sentence) <= SENTENCE_CHARS_MAX


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["message", "severity", "location", "lat", "lon", "timestamp", "payload", "sender", "reason"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
TEXT_BYTES = st.text(max_size=300).map(lambda text: text.encode("utf-8", errors="surrogatepass"))
PAYLOADS = (
    st.binary(max_size=300)
    | TEXT_BYTES
    | JSON.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: gzip.compress(json.dumps(value).encode()))
)
WORST = {
    "message": "m" * 999,
    "severity": "s" * 99,
    "location": {"lat": -89.123456, "lon": -179.123456},
    "timestamp": "1999-01-01T00:00:00.123Z",
    "sender": "w" * 99,
}


@settings(max_examples=300)
@given(PAYLOADS, st.text(max_size=100), st.text(max_size=100), st.integers(0, 4_102_444_800_000))
@example(json.dumps(WORST).encode(), "", "c" * 300, ARRIVAL_MS)
def test_any_bytes_are_a_finding_that_can_be_told(payload, level, client_id, received_ms):
    findings = [
        read_call(f"alert/medical/{level}", payload, received_ms, client_id),
        read_stop(payload, received_ms, client_id),
    ]
    for finding in findings:
        assert finding.severity is Severity.CRITICAL
        assert finding.present
        assert len(finding.sentence) <= SENTENCE_CHARS_MAX
        assert finding.sentence.isprintable()
        assert finding.at_ms == received_ms
        assert 0 < len(finding.subject) <= SUBJECT_CHARS_MAX
        msgspec.json.encode(finding)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"Person detected in area", "EMERGENCY STOP by mower-1: Person detected in area"),
        (b'{"who": "Anna", "reason": "cow on the belt"}', "EMERGENCY STOP by Anna: cow on the belt"),
        (
            b'{"sender":"safety","payload": {"message": "Person detected in area", "severity": "high"}}',
            "EMERGENCY STOP by safety: Person detected in area",
        ),
        (b'{"metadata": {"sender": "vision"}, "payload": {}}', "EMERGENCY STOP by vision"),
        (b"{}", "EMERGENCY STOP by mower-1"),
        (b"0", "EMERGENCY STOP by mower-1"),
        (b"\xff\xff\x00\x00", "EMERGENCY STOP by mower-1: (message unreadable, 4 bytes)"),
    ],
)
def test_a_stop_says_who_and_why(payload, sentence):
    finding = stop(payload)
    assert (finding.subject, finding.kind) == ("barn", "emergency_stop")
    assert finding.sentence == sentence


def test_a_stop_by_nobody_is_a_stop():
    assert stop(b"1", client_id="").sentence == "EMERGENCY STOP by unknown"


def alert(kind="emergency_stop", state=State.ACTIVE):
    return Alert(
        id=17,
        subject="barn",
        kind=kind,
        episode=1,
        severity=Severity.CRITICAL,
        state=state,
        onset_ms=ARRIVAL_MS,
        last_seen_ms=ARRIVAL_MS,
        raised_ms=ARRIVAL_MS,
        changed_ms=ARRIVAL_MS,
        confidence=1.0,
        sentence="EMERGENCY STOP by Anna: cow on the belt",
    )


@pytest.mark.parametrize("state", [State.ACTIVE, State.ACKNOWLEDGED])
def test_while_the_stop_holds_both_topics_say_so(state):
    told = stop_state(alert(state=state))
    assert [topic for topic, _ in told] == list(STOP_TOPICS)
    for _, payload in told:
        said = json.loads(payload)
        assert (said["active"], said["alert_id"], said["severity"]) == (True, 17, "critical")
        assert said["since"] == "2025-11-01T10:00:00Z"
        assert said["message"] == "EMERGENCY STOP by Anna: cow on the belt"
        assert "reset by a person" in said["reset"]


@pytest.mark.parametrize("ended", [None, alert(state=State.RESOLVED), alert(state=State.FALSE_POSITIVE)])
def test_when_it_has_ended_both_topics_are_cleared(ended):
    assert stop_state(ended) == [(topic, b"") for topic in STOP_TOPICS]


def test_other_alerts_are_no_stop():
    assert stop_state(alert(kind="panic")) == []
    assert stop_state(alert(kind="panic", state=State.RESOLVED)) == []
