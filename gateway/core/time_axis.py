"""Where a time axis has its marks: round times of the site's own clock, also over a change of it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

import msgspec

from gateway.core.instants import DAY_MS, HOURS_PER_DAY, MINUTES_PER_HOUR, MS_PER_MINUTE

TICKS_MAX = 8
"""At 640 pixels each has 70: a time and room beside it."""

_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)
_DAYS = (1, 2, 7, 14, 30, 60, 90, 180, 365)
_DAY_MINUTES = HOURS_PER_DAY * MINUTES_PER_HOUR
_YEAR_MAX = 9998


class Tick(msgspec.Struct, frozen=True):
    """One mark: UTC epoch ms and what stands beside it."""

    t_ms: int
    label: str


def ticks(from_ms: int, until_ms: int, zone: tzinfo) -> list[Tick]:
    """Marks at round local times within the span, both ends included; the date at midnight.

    A local time that does not exist (clocks put forward) has no mark; of one that comes twice the
    first has it.
    """
    span_ms = until_ms - from_ms
    for minutes in _MINUTES:
        if span_ms <= TICKS_MAX * minutes * MS_PER_MINUTE:
            return _in_span(from_ms, until_ms, zone, 1, minutes)
    days = next((days for days in _DAYS if span_ms <= TICKS_MAX * days * DAY_MS), None)
    days = days or -(-span_ms // (TICKS_MAX * DAY_MS))
    return _in_span(from_ms, until_ms, zone, days, _DAY_MINUTES)


def _in_span(from_ms: int, until_ms: int, zone: tzinfo, days: int, minutes: int) -> list[Tick]:
    found = []
    day = _local(from_ms, zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    last = _local(until_ms, zone).replace(tzinfo=None)
    while day <= last and day.year <= _YEAR_MAX:
        for minute in range(0, _DAY_MINUTES, minutes):
            wall = day + timedelta(minutes=minute)
            t_ms = round(wall.replace(tzinfo=zone).timestamp() * 1000)
            if from_ms <= t_ms <= until_ms and _local(t_ms, zone).replace(tzinfo=None) == wall:
                found.append(Tick(t_ms, f"{wall:%H:%M}" if minute else f"{wall:%m-%d}"))
        day += timedelta(days=days)
    return found


def _local(t_ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(t_ms / 1000, UTC).astimezone(zone)
