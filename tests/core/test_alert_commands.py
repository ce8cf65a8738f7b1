"""Commands and forms: what is understood, and that every fault names its field and the remedy."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.alert_commands import (
    AskFault,
    Command,
    Order,
    SilenceWish,
    Word,
    convert,
    decode,
    expired,
)

T0_MS = 1_764_081_000_000  # 2025-11-25T14:30:00Z


def command(**fields: Any) -> Command | AskFault:
    given_ = {"id": "c-1", "command": "acknowledge", **fields}
    return decode(json.dumps(given_).encode(), Command)


def test_a_command_says_what_who_and_why() -> None:
    assert command(alert=17, by="Anna", note="vet called") == Command(
        "c-1", Order.ACKNOWLEDGE, alert=17, by="Anna", note="vet called"
    )
    assert command() == Command("c-1", Order.ACKNOWLEDGE)
    assert command(alert=None) == Command("c-1", Order.ACKNOWLEDGE)
    assert command(command="silence", subject="COW_7", hours=4) == Command(
        "c-1", Order.SILENCE, subject="COW_7", hours=4.0
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"command": "ack"}, "command must be acknowledge, resolve, false_positive, silence or unsilence"),
        ({"alert": 0}, "alert must be the number of an alert, 1 or more"),
        ({"alert": "17"}, "alert must be the number"),
        ({"alert": 1.5}, "alert must be the number"),
        ({"alert": True}, "alert must be the number"),
        ({"alert": 2**63}, "alert must be the number"),
        ({"by": "A" * 65}, "by must be who says so, at most 64 characters"),
        ({"note": 7}, "note must be a text of at most 200 characters"),
        ({"cow": "COW_7"}, "there is no field 'cow', only id, command, alert"),
        ({"command": "silence"}, "hours is missing: how long, more than 0 and at most 720"),
        ({"command": "silence", "hours": 0}, "hours must be how long"),
        ({"command": "silence", "hours": 721}, "hours must be how long"),
        ({"command": "silence", "hours": 1, "subject": "a b"}, "subject must be an animal"),
        ({"command": "silence", "hours": 1, "subject": "COW_7\n"}, "subject must be an animal"),
        ({"command": "silence", "hours": 1, "kind": "Fever"}, "kind must be a kind of alert"),
        ({"command": "silence", "hours": 1, "kind": "panic"}, "kind: panic is never silenced"),
        ({"command": "unsilence"}, "silence is missing: the number of a silence"),
        ({"timestamp": "soon"}, "timestamp must be a time such as 2025-11-25T14:30:00Z"),
        ({"timestamp": 5}, "timestamp must be a time"),
    ],
)
def test_a_fault_names_field_and_remedy_and_the_commands_id(fields: dict[str, Any], sentence: str) -> None:
    found = command(**fields)
    assert isinstance(found, AskFault)
    assert found.text.startswith(sentence), found.text
    assert found.id == "c-1"


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "a JSON object is needed"),
        (b"acknowledge", "a JSON object is needed"),
        (b"[]", "a JSON object is needed, for example {"),
        (b"\xff\xfe", "a JSON object is needed"),
        (b'{"id": "c-1"', "a JSON object is needed"),
        (b'{"id": "\\ud800", "command": "acknowledge"}', "a JSON object is needed"),
        (b"[" * 4000, "a JSON object is needed"),
        (b'{"command": "acknowledge"}', "id is missing: a text of 1 to 64 characters"),
        (b'{"id": "", "command": "acknowledge"}', "id must be a text of 1 to 64 characters"),
        (b" " * 5000, "5000 bytes are too many: at most 4096"),
    ],
)
def test_what_is_no_command_is_told_without_an_id(payload: bytes, sentence: str) -> None:
    found = decode(payload, Command)
    assert isinstance(found, AskFault)
    assert found.text.startswith(sentence), found.text
    assert found.id is None


FIELDS = st.sampled_from(["id", "command", "alert", "by", "hours", "kind", "timestamp", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS, inner, max_size=6),
    max_leaves=12,
)


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_payload_is_more_than_a_command_or_a_sentence(payload: bytes) -> None:
    found = decode(payload, Command)
    assert isinstance(found, Command) or found.text


@pytest.mark.parametrize(
    ("timestamp", "why"),
    [
        (None, None),
        ("2025-11-25T14:29:30Z", None),
        ("2025-11-25T14:29:29Z", "timestamp: the command is 31 s old and expires after 30 s"),
        ("2025-11-25T15:29:00+01:00", "60 s old"),
        ("2025-11-25T15:29:00", "60 s old"),
        ("2025-11-25T12:30:00Z", "120 min old"),
        ("2025-11-25T14:31:00Z", None),
    ],
)
def test_a_command_expires_after_30_s_decision_25(timestamp: str | None, why: str | None) -> None:
    said = Command("c-1", Order.ACKNOWLEDGE, timestamp=timestamp)
    found = expired(said, T0_MS, ZoneInfo("Europe/Berlin"))
    assert (found is None) if why is None else (found is not None and why in found), found


def test_a_form_is_read_like_json() -> None:
    assert convert({"by": "Anna", "note": ""}, Word) == Word("Anna")
    assert convert(
        {"by": "Anna", "hours": "4.5", "subject": "", "kind": "fever"}, SilenceWish
    ) == SilenceWish("Anna", 4.5, kind="fever")
    for fields, sentence in (
        ({"by": "  "}, "by is missing: who says so"),
        ({"by": "Anna", "note": "x" * 201}, "note must be"),
        ({"by": "Anna", "origin": "button"}, "origin must be web or cli"),
        ({"by": "Anna", "nonsense": "1"}, "there is no field 'nonsense', only by, note, origin"),
    ):
        found = convert(fields, Word)
        assert isinstance(found, AskFault)
        assert found.text.startswith(sentence), found.text
    found = convert({"by": "Anna", "hours": "many"}, SilenceWish)
    assert isinstance(found, AskFault)
    assert found.text.startswith("hours must be")
    found = decode(b'{"by": " "}', Word)
    assert isinstance(found, AskFault)
