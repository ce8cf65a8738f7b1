"""The JSON of /api/series: what is measured over time. Pure; the server does the reading."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import msgspec

from gateway.core.instants import DAY_MS, iso_utc
from gateway.core.timespan import instant_ms
from gateway.store.history import CHANNELS, Floats, SeriesTable
from gateway.web.api import BadParameterError, cow_id_of, only_known

POINTS_DEFAULT = 500
POINTS_MAX = 2000
"""Buckets an animal: 2000 × 4 figures × about 8 bytes are 64 KB a channel."""
ALL_READINGS_MS_MAX = DAY_MS
ALL_READINGS_COWS_MAX = 10
"""Every reading: 10 × 1440 × about 30 bytes = 430 KB."""


class SeriesQuery(msgspec.Struct, frozen=True):
    """What /api/series was asked for; `points` None = every reading."""

    cow_ids: tuple[str, ...] | None
    from_ms: int
    to_ms: int
    channels: tuple[str, ...]
    points: int | None


def series_of(query: Mapping[str, str], now_ms: int) -> SeriesQuery:
    """`cow_id` (several with commas; default all), `from` (-24h), `to` (now), `channels`, `points`.

    `points` is the most buckets an animal gets, or `all` for every reading.
    """
    only_known(query, "cow_id", "from", "to", "channels", "points")
    try:
        from_ms = instant_ms(query.get("from", "-24h"), now_ms, UTC)
        to_ms = instant_ms(query.get("to", "now"), now_ms, UTC)
    except ValueError as error:
        raise BadParameterError(str(error)) from None
    cow_ids = tuple(query["cow_id"].split(",")) if "cow_id" in query else None
    for cow_id in cow_ids or ():
        cow_id_of({"cow_id": cow_id})
    channels = tuple(query.get("channels", "temperature_c").split(","))
    for channel in channels:
        if channel not in CHANNELS:
            raise BadParameterError(f"channels must be of {', '.join(CHANNELS)}, not {channel[:40]!r}")
    text = query.get("points", str(POINTS_DEFAULT))
    if text == "all":
        if to_ms - from_ms > ALL_READINGS_MS_MAX or cow_ids is None or len(cow_ids) > ALL_READINGS_COWS_MAX:
            raise BadParameterError(
                f"points=all names at most {ALL_READINGS_COWS_MAX} animals in cow_id, and at most 24 h; "
                "`barn-gateway export` gives more"
            )
        return SeriesQuery(cow_ids, from_ms, to_ms, channels, None)
    if not (re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) and 1 <= int(text) <= POINTS_MAX):
        raise BadParameterError(f"points must be a whole number from 1 to {POINTS_MAX}, or all")
    return SeriesQuery(cow_ids, from_ms, to_ms, channels, int(text))


def series_object(table: SeriesTable, wanted: SeriesQuery) -> dict[str, Any]:
    """GET /api/series: per animal the instants and, by channel, what was measured; null = not sent."""
    figures = ("values",) if table.step_ms is None else ("values", "low", "high", "last")

    def of(rows: slice) -> dict[str, Any]:
        found: dict[str, Any] = {"time_ms": table.timestamp_ms[rows].tolist()}
        if table.step_ms is not None:
            found["n"] = table.n[rows].tolist()
        for channel in wanted.channels:
            columns = {name: _numbers(getattr(table, name)[channel][rows]) for name in figures}
            found[channel] = columns["values"] if table.step_ms is None else columns
        return found

    return {
        "from": iso_utc(wanted.from_ms),
        "to": iso_utc(wanted.to_ms),
        "step_s": None if table.step_ms is None else table.step_ms // 1000,
        "animals": {cow_id: of(rows) for cow_id, rows in table.rows_by_cow()},
    }


def _numbers(column: Floats) -> list[float | None]:
    """As JSON: four decimals are finer than any channel is stored, NaN is null."""
    return [None if math.isnan(value) else round(value, 4) for value in column.tolist()]
