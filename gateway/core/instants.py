"""UTC epoch milliseconds: their units, and the text people and receivers read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

MS_PER_MINUTE = 60_000
MINUTES_PER_HOUR = 60
HOUR_MS = MINUTES_PER_HOUR * MS_PER_MINUTE
HOURS_PER_DAY = 24
DAY_MS = HOURS_PER_DAY * HOUR_MS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso_utc(instant_ms: int) -> str:
    """`2025-11-25T14:30:00Z`, with `.mmm` before the Z when the milliseconds are not 0."""
    moment = _EPOCH + timedelta(milliseconds=instant_ms)
    spec = "milliseconds" if instant_ms % 1000 else "seconds"
    return moment.replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def plain_utc(instant_ms: int) -> str:
    """`2025-11-25 14:30:00`, where UTC is said beside it; milliseconds are cut off."""
    return iso_utc(instant_ms // 1000 * 1000).replace("T", " ").removesuffix("Z")
