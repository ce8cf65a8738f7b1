"""Times as a person writes them on the command line, and as the wire carries them. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sensor_sim.errors import SimError

MINUTE_MS = 60_000
DAY_MS = 86_400_000
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:\d+[smhd])+")
_PART = re.compile(r"(\d+)([smhd])")


def parse_duration_s(text: str) -> int:
    """Seconds in `20m`, `6h`, `1h30m`, `2d` or `90s`; `SimError` for anything else."""
    if not _DURATION.fullmatch(text):
        raise SimError(f"'{text}' is no duration; write it like 90s, 20m, 6h, 1h30m or 2d")
    return sum(int(count) * _UNIT_S[unit] for count, unit in _PART.findall(text))


def parse_start_ms(text: str, now_ms: int) -> int:
    """UTC epoch ms of `now`, `-6h` or an ISO 8601 instant, floored to the minute.

    An instant without offset is UTC (decision 7).
    """
    if text == "now":
        start_ms = now_ms
    elif text.startswith("-"):
        start_ms = now_ms - 1000 * parse_duration_s(text[1:])
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise SimError(f"--start '{text}' is no time; write now, -6h or 2026-11-21T00:00:00Z") from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        start_ms = round(moment.timestamp() * 1000)
    return start_ms - start_ms % MINUTE_MS


def iso(timestamp_ms: int) -> str:
    """The wire form of an instant: `2025-11-19T14:30:00Z`, whole seconds."""
    return datetime.fromtimestamp(timestamp_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
