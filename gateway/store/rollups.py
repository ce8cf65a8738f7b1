"""Hourly figures of every animal: kept per day, renewed from the journal, read back as any wider bucket.

A row holds the hours of one animal's UTC day as columns of whole numbers (store/columns.py), so a day
of one animal is one row to read and a day's figures are the sum of its hours. `closed` hours of
arrival are rolled up once; what has changed since is reckoned from the readings when it is asked
for, so the answer is always exact. Means are kept to a tenth of a reading's own step.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.buckets import Buckets, Figures, joined, widened
from gateway.core.instants import HOUR_MS, HOURS_PER_DAY
from gateway.store import columns, journal, slice_key, spans
from gateway.store.columns import MISSING
from gateway.store.spans import COLUMNS, MOTION_G, STATE_MINUTES

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

FORM = 0x21
"""Says how a day is laid out: CHANNELS and STATE_MINUTES in their order. Another order, another form."""
CHANNELS = (
    *("temperature_c", MOTION_G, "fxa_g", "mya_g", "rza_g"),
    *("sxg_dps", "lyg_dps", "dzg_dps", "motion_intensity"),
)
"""What has low, mean, high and last; what baselines ask for first, because reading stops there."""
_STEPS = {**{name: COLUMNS[name][2] for name in CHANNELS if name != MOTION_G}, MOTION_G: 1000}
_HOUR, _N = 0, 1
_FIRST = 2
_PER_CHANNEL = 5  # n, low, mean, high, last
_STATES = _FIRST + _PER_CHANNEL * len(CHANNELS)
_WIDTH = _STATES + len(STATE_MINUTES)
_MEAN_FINER = 10
_FEW = 8
"""Animals up to which their days are looked up one by one: 90 days of 8 are 720 keys."""
_ALL = (*CHANNELS, *STATE_MINUTES)


class Day(msgspec.Struct, frozen=True):
    """One animal's day with its new hours, ready to be written."""

    day_animal: int
    data: bytes


class HourlyTable(msgspec.Struct, frozen=True, eq=False):
    """Hourly figures by name, one entry per animal and hour that has readings.

    Args:
        cow_ids: the animals.
        cow: index into `cow_ids`.
        hour: hours since 1970 (UTC).
        values: by name as asked for; NaN = not sent.
    """

    cow_ids: list[str]
    cow: Int32
    hour: Int64
    values: dict[str, Float64]


def hourly(db: sqlite3.Connection, from_hour: int, to_hour: int, names: Sequence[str]) -> HourlyTable:
    """Figures of all animals, from_hour ≤ hour < to_hour, in no particular order.

    Args:
        db: any connection.
        from_hour: hours since 1970 (UTC), the first that counts.
        to_hour: the first that does not.
        names: "n" (readings), or channel_figure_unit with the figures n, low, mean, high, last, as in
            "temperature_mean_c", "motion_n", "motion_mean_g"; or "lying_min" and its like.

    Raises:
        ChunkError: a chunk is damaged.
        ValueError: a name that does not exist.
    """
    wanted = {name: _meaning(name) for name in names}
    channels = list(dict.fromkeys(channel for channel, _ in wanted.values() if channel))
    ids: dict[int, str] = dict(db.execute("SELECT id, cow_id FROM animals"))
    found = _hours(db, None, range(from_hour, to_hour), channels)
    known, cow = np.unique(found.cow, return_inverse=True)
    values = {}
    for name, (channel, figure) in wanted.items():
        column = getattr(found.channels[channel], figure) if channel else found.n
        values[name] = np.asarray(column, np.float64)
    cow_ids = [ids[int(animal)] for animal in known]
    return HourlyTable(cow_ids, cow.astype(np.int32), found.start_ms // HOUR_MS, values)


def buckets(
    db: sqlite3.Connection,
    animals: Collection[int] | None,
    hours: range,
    channels: Sequence[str],
    *,
    step_ms: int,
) -> Buckets:
    """Figures of buckets made of whole hours; the span begins and ends with a bucket.

    Raises:
        ChunkError: a chunk is damaged.
    """
    return widened(_hours(db, animals, hours, channels), step_ms)


def due(db: sqlite3.Connection, arrival_hour: int) -> dict[int, set[int]]:
    """What an arrival hour makes old: animals by hour of data, hours ascending.

    The first motion of an hour is measured from the hour before, so a late reading there counts here.
    """
    touched = journal.by_hour(db, arrival_hour)
    found = {hour: set(animals) for hour, animals in touched.items()}
    for hour, animals in touched.items():
        if hour < arrival_hour:
            found.setdefault(hour + 1, set()).update(animals)
    return dict(sorted(found.items()))


def renew(db: sqlite3.Connection, hour: int, animals: Collection[int]) -> list[Day]:
    """Reckon an hour's figures of some animals anew and put them into their days. Reads only.

    Figures of more readings than are there any more (they were let go, or their packed hour is
    damaged) stay as they are.

    Raises:
        ChunkError: a chunk is damaged.
    """
    found = _reckoned(db, hour, animals, _ALL)
    day = hour // HOURS_PER_DAY
    days = []
    for at, animal in enumerate(found.cow.tolist()):
        key = slice_key.of(day, animal)
        table = _encode(found.take(np.array([at])))
        row = db.execute("SELECT data FROM rollups WHERE day_animal = ?", (key,)).fetchone()
        if row is not None:
            kept = _kept(db, row[0], day, animal)
            here = kept[_HOUR] == table[_HOUR]
            if (kept[_N, here] > table[_N]).any():
                continue  # readings behind these figures are gone; what is left says less
            table = np.concatenate([kept[:, ~here], table], axis=1)
            table = table[:, np.argsort(table[_HOUR])]
        days.append(Day(key, columns.seal(FORM, columns.encode(list(table)))))
    return days


def write(db: sqlite3.Connection, days: Sequence[Day], arrival_hour: int) -> None:
    """Write days as `renew` made them; nobody else may have renewed them meanwhile."""
    db.executemany(
        "INSERT INTO rollups (day_animal, arrival_hour, data) VALUES (?, ?, ?)"
        " ON CONFLICT (day_animal) DO UPDATE SET data = excluded.data,"
        " arrival_hour = max(arrival_hour, excluded.arrival_hour)",
        ((day.day_animal, arrival_hour, day.data) for day in days),
    )


def _hours(
    db: sqlite3.Connection,
    animals: Collection[int] | None,
    hours: range,
    channels: Sequence[str],
) -> Buckets:
    """Hourly figures of a span: rolled up, and reckoned where something has come since."""
    changed = {
        (at, animal)
        for hour, animal in journal.slices_after(db, journal.cursors(db).rolled_hour)
        for at in (hour, hour + 1)  # the first motion of an hour is measured from the one before
        if at in hours and (animals is None or animal in animals)
    }
    parts = []
    fuller: dict[tuple[int, int], int] = {}
    places = _places(channels)
    days = range(hours.start // HOURS_PER_DAY, -(-hours.stop // HOURS_PER_DAY))
    for day, animal, data in _stored(db, animals, days):
        column = decode(data, places)
        if column is None:
            first = day * HOURS_PER_DAY
            changed |= {(hour, animal) for hour in range(first, first + HOURS_PER_DAY) if hour in hours}
            continue
        hour = column[_HOUR] + day * HOURS_PER_DAY
        fresh = (hour >= hours.start) & (hour < hours.stop)
        for at in np.flatnonzero(fresh).tolist() if changed else ():
            if (int(hour[at]), animal) in changed:
                fuller[int(hour[at]), animal] = int(column[_N][at])
        if fresh.any():
            parts.append((np.full(len(hour), animal), column, fresh, hour))
    stored = _bucket(parts, channels) if parts else joined([], channels)
    by_hour: dict[int, set[int]] = defaultdict(set)
    for changed_hour, animal in changed:
        by_hour[changed_hour].add(animal)
    anew = joined([_reckoned(db, hour, some, channels) for hour, some in sorted(by_hour.items())], channels)
    return _fuller(stored, anew, fuller, channels)


def _fuller(
    stored: Buckets, anew: Buckets, counted: dict[tuple[int, int], int], channels: Sequence[str]
) -> Buckets:
    """Of hours that are stored and reckoned anew, the figures that more readings stand behind."""
    keys = zip((anew.start_ms // HOUR_MS).tolist(), anew.cow.tolist(), anew.n.tolist(), strict=True)
    takes = np.array([n >= counted.get((hour, animal), 0) for hour, animal, n in keys], np.bool_)
    taken = {
        (hour, animal)
        for hour, animal in zip(
            (anew.start_ms[takes] // HOUR_MS).tolist(), anew.cow[takes].tolist(), strict=True
        )
        if (hour, animal) in counted
    }
    if taken:
        places = zip((stored.start_ms // HOUR_MS).tolist(), stored.cow.tolist(), strict=True)
        stored = stored.take(np.array([place not in taken for place in places], np.bool_))
    return joined([stored, anew.take(takes)], channels)


def _kept(db: sqlite3.Connection, data: bytes, day: int, animal: int) -> Int64:
    """A day's table as stored, or reckoned anew where it is damaged."""
    column = decode(data)
    if column is not None:
        return np.stack([column[place] for place in range(_WIDTH)])
    span = day * HOURS_PER_DAY * HOUR_MS, (day + 1) * HOURS_PER_DAY * HOUR_MS
    return _encode(spans.figures(db, *span, {animal}, _ALL, step_ms=HOUR_MS))


def _reckoned(
    db: sqlite3.Connection, hour: int, animals: Collection[int], channels: Sequence[str]
) -> Buckets:
    span = hour * HOUR_MS, (hour + 1) * HOUR_MS
    return spans.figures(db, *span, animals, channels, step_ms=HOUR_MS)


def _stored(
    db: sqlite3.Connection, animals: Collection[int] | None, days: range
) -> Iterator[tuple[int, int, bytes]]:
    if animals is not None and len(animals) <= _FEW:
        keys = [slice_key.of(day, animal) for day in days for animal in sorted(animals)]
        query = "SELECT day_animal, data FROM rollups WHERE day_animal IN (SELECT value FROM json_each(?))"
        rows = db.execute(query, (json.dumps(keys),))
    else:
        query = "SELECT day_animal, data FROM rollups WHERE day_animal >= ? AND day_animal < ?"
        rows = db.execute(query, (slice_key.of(days.start, 0), slice_key.of(days.stop, 0)))
    for key, data in rows:
        day, animal = slice_key.apart(key)
        if animals is None or animal in animals:
            yield day, animal, data


def _places(channels: Sequence[str]) -> list[int]:
    places = [_HOUR, _N]
    for channel in channels:
        if channel in STATE_MINUTES:
            places.append(_STATES + STATE_MINUTES.index(channel))
        else:
            first = _FIRST + _PER_CHANNEL * CHANNELS.index(channel)
            places += range(first, first + _PER_CHANNEL)
    return places


def _bucket(
    parts: Sequence[tuple[Int64, dict[int, Int64], npt.NDArray[np.bool_], Int64]], channels: Sequence[str]
) -> Buckets:
    fresh: npt.NDArray[np.bool_] = np.concatenate([part[2] for part in parts])

    def column(place: int) -> Int64:
        whole: Int64 = np.concatenate([part[1][place] for part in parts])
        return np.compress(fresh, whole)

    found = {}
    for channel in channels:
        if channel in STATE_MINUTES:
            n = column(_STATES + STATE_MINUTES.index(channel))
            one = np.where(n > 0, 1.0, np.nan)
            found[channel] = Figures(n, one, one, one, one)
            continue
        first, steps = _FIRST + _PER_CHANNEL * CHANNELS.index(channel), _STEPS[channel]
        n = column(first)
        low, mean, high, last = (
            np.where(n > 0, column(first + at) / (steps * finer), np.nan)
            for at, finer in ((1, 1), (2, _MEAN_FINER), (3, 1), (4, 1))
        )
        found[channel] = Figures(n, low, mean, high, last)
    return Buckets(
        cow=np.concatenate([part[0] for part in parts])[fresh].astype(np.int32),
        start_ms=np.concatenate([part[3] for part in parts])[fresh] * HOUR_MS,
        n=column(_N),
        channels=found,
    )


def _encode(figures: Buckets) -> Int64:
    """Figures of one animal's hours as a table [columns, hours] of whole numbers."""
    rows = [figures.start_ms // HOUR_MS % HOURS_PER_DAY, figures.n]
    for channel in CHANNELS:
        one, steps = figures.channels[channel], _STEPS[channel]
        rows.append(one.n)
        for values, finer in ((one.low, 1), (one.mean, _MEAN_FINER), (one.high, 1), (one.last, 1)):
            scaled = np.nan_to_num(np.rint(values * (steps * finer)))
            rows.append(np.where(np.isnan(values), MISSING, scaled.astype(np.int64)))
    rows += [figures.channels[word].n for word in STATE_MINUTES]
    table: Int64 = np.stack(rows).astype(np.int64)
    return table


def decode(data: bytes, places: Collection[int] = range(_WIDTH)) -> dict[int, Int64] | None:
    """Columns of a day by place: 0 = hour of the day, 1 = readings …; None for a damaged day.

    Figures are reckoned from the readings, so a damaged day is no loss while those are there.
    """
    try:
        return columns.decode(columns.unseal(FORM, data), places)[0]
    except columns.ColumnsError:
        return None


def _meaning(name: str) -> tuple[str, str]:
    """A name of a figure as (channel, figure); ("", "n") is the number of readings."""
    if name == "n":
        return "", "n"
    for word in STATE_MINUTES:
        if name == f"{word}_min":
            return word, "n"
    for channel in CHANNELS:
        stem, _, unit = channel.rpartition("_") if channel != "motion_intensity" else (channel, "", "")
        for figure in ("low", "mean", "high", "last"):
            if name == "_".join(part for part in (stem, figure, unit) if part):
                return channel, figure
        if name == f"{stem}_n":
            return channel, "n"
    raise ValueError(f"there is no hourly figure {name!r}")
