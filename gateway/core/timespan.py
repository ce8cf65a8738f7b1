"""What a person types as a moment: `2025-11-25T14:30`, `2025-11-25`, `-7d`, `-6h`, `now`. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

_AGO = re.compile(r"-(\d+(?:\.\d+)?)([smhdw])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999: what lies outside of them has no date that could be shown."""


def instant_ms(text: str, now_ms: int, zone: tzinfo) -> int:
    """UTC epoch milliseconds.

    Args:
        text: ISO 8601 (a date alone is its midnight), a time ago (`-90s`, `-30m`, `-6h`, `-7d`,
            `-2w`) or `now`.
        now_ms: what `now` is.
        zone: where a time without a zone belongs.

    Raises:
        ValueError: it is none of these; says what is expected.
    """
    if text == "now":
        return now_ms
    if ago := _AGO.fullmatch(text):
        return _dated(now_ms - round(min(float(ago[1]) * _UNIT_MS[ago[2]], 1e15)))
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return _dated((moment - _EPOCH) // timedelta(milliseconds=1))
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: write 2025-11-25T14:30:00Z, -7d, -6h or now") from None


def _dated(ms: int) -> int:
    return min(max(ms, _FIRST_MS), _LAST_MS)
