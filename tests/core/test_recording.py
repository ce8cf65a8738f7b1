from __future__ import annotations

import json
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from gateway.core.message_stats import MessageStats
from gateway.core.messages import Reason
from gateway.core.recording import BadRow, RecordedMessage, message_of, wire_of_row
from gateway.core.timespan import instant_ms

NOW = 1_764_081_000_000  # 2025-11-25T14:30:00Z


@pytest.mark.parametrize(
    ("row", "temperature", "wire"),
    [
        ({"cow_id": "A", "fxa": "0.5", "label": "x"}, None, {"cow_id": "A", "fxa": 0.5}),
        ({"cow_id": " A ", "fxa": ""}, 38.6, {"cow_id": "A", "temperature": 38.6}),
        ({"temperature": "39", "state": "1"}, 38.6, {"temperature": 39.0, "state": "1"}),
        ({"fxa": "nan", "mya": "1_0", "rza": "abc"}, None, {"fxa": "nan", "mya": "1_0", "rza": "abc"}),
    ],
)
def test_cells_become_the_fields_a_collar_would_send(
    row: dict[str, str], temperature: float | None, wire: dict[str, object]
) -> None:
    assert wire_of_row(row, temperature) == wire


def test_a_recorded_message_knows_its_instant() -> None:
    found = message_of({"cow_id": "A", "timestamp": "2025-11-25T15:30:00+01:00", "fxa": 0.1})
    assert isinstance(found, RecordedMessage)
    assert found.at_ms == NOW
    assert json.loads(found.payload)["fxa"] == 0.1
    assert message_of({"cow_id": "A", "timestamp": "2025-11-25T14:30:00"}) == RecordedMessage(
        NOW, "A", b'{"cow_id":"A","timestamp":"2025-11-25T14:30:00+00:00"}'
    )


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        ({"cow_id": "A"}, "must not be empty"),
        ({"cow_id": "", "timestamp": "x"}, "must not be empty"),
        ({"cow_id": "A", "timestamp": "yesterday"}, "'yesterday' is no ISO 8601"),
        ({"cow_id": "A", "timestamp": "2025-11-25", "fxa": "much"}, "fxa 'much' is no number"),
    ],
)
def test_a_row_that_cannot_be_sent_says_why(wire: dict[str, object], why: str) -> None:
    found = message_of(wire)
    assert isinstance(found, BadRow)
    assert why in found.why


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("now", NOW),
        ("-90s", NOW - 90_000),
        ("-1.5h", NOW - 5_400_000),
        ("-7d", NOW - 7 * 86_400_000),
        ("2025-11-25T14:30:00Z", NOW),
        ("2025-11-25T15:30", NOW),
        ("2025-11-25", NOW - 15 * 3_600_000 - 1_800_000),
    ],
)
def test_moments_as_people_type_them(text: str, ms: int) -> None:
    assert instant_ms(text, NOW, ZoneInfo("Europe/Berlin")) == ms


@pytest.mark.parametrize("text", ["", "soon", "-7", "-7y", "25.11.2025"])
def test_what_is_no_moment_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time: write 2025-11-25T14:30:00Z, -7d, -6h or now"):
        instant_ms(text, NOW, UTC)


def test_the_statistics_line_is_document_0s() -> None:
    stats = MessageStats(total=3, valid=2, stored=1, duplicates=1)
    stats.reject(Reason.BAD_TYPE)
    stats.reject(Reason.BAD_TYPE)
    assert stats.rejected_by_reason == {Reason.BAD_TYPE: 2}
    assert stats.line() == (
        "Message stats: total=3, valid=2, invalid=2, stored=1, duplicates=1, storage_errors=0"
    )
