"""Series of many animals → figures per animal and bucket of time. Pure.

The same arithmetic makes the hourly figures of the store and the points of a chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.instants import MS_PER_MINUTE

Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Figures(msgspec.Struct, frozen=True, eq=False):
    """One channel, one entry a bucket, NaN where the channel was not sent.

    Args:
        n: values behind them.
        low, mean, high: smallest, arithmetic mean, largest.
        last: by instant.
    """

    n: Int64
    low: Float64
    mean: Float64
    high: Float64
    last: Float64

    def take(self, chosen: Int64 | Bools) -> Self:
        """Some of the entries, in the order given."""
        return type(self)(*(getattr(self, name)[chosen] for name in self.__struct_fields__))


class Buckets(msgspec.Struct, frozen=True, eq=False):
    """Figures of all channels; one entry per animal and bucket that has readings, by animal and time.

    Args:
        cow: the animal's number, as given.
        start_ms: UTC epoch ms of the bucket's start, a multiple of its width.
        n: readings.
        channels: figures by channel.
    """

    cow: Int32
    start_ms: Int64
    n: Int64
    channels: dict[str, Figures]

    def take(self, chosen: Int64 | Bools) -> Self:
        """Some of the entries, in the order given."""
        channels = {name: figures.take(chosen) for name, figures in self.channels.items()}
        return type(self)(self.cow[chosen], self.start_ms[chosen], self.n[chosen], channels)


def bucketed(cow: Int32, timestamp_ms: Int64, values: Mapping[str, Float64], step_ms: int) -> Buckets:
    """Figures per animal and bucket.

    Args:
        cow: number of the animal, one a reading; readings sorted by animal, then instant.
        timestamp_ms: UTC epoch ms.
        values: by channel, NaN = not sent.
        step_ms: width of a bucket.
    """
    starts_ms = timestamp_ms // step_ms * step_ms
    first = np.flatnonzero(_changes(cow) | _changes(starts_ms))
    ends = np.append(first[1:], len(cow))
    return Buckets(
        cow=cow[first],
        start_ms=starts_ms[first],
        n=ends - first,
        channels={name: _figures(column, first) for name, column in values.items()},
    )


def motion_of(cow: Int32, timestamp_ms: Int64, axes: Sequence[Float64], reported: Float64) -> Float64:
    """Motion (decision 1) at the last reading of each minute, in the unit of the three axes; NaN elsewhere.

    It is the length of the difference to the last reading of the minute before, NaN where that is
    missing; what the collar reports itself wins. Readings sorted by animal, then instant.
    """
    motion = np.full(len(cow), np.nan)
    minute = timestamp_ms // MS_PER_MINUTE
    last = np.flatnonzero(last_in_minute(cow, timestamp_ms))
    if len(last) == 0:
        return motion
    follows = (np.diff(cow[last]) == 0) & (np.diff(minute[last]) == 1)
    steps = [np.diff(axis[last]) ** 2 for axis in axes]
    motion[last[1:][follows]] = np.sqrt(steps[0] + steps[1] + steps[2])[follows]
    told = last[~np.isnan(reported[last])]
    motion[told] = reported[told]
    return motion


def last_in_minute(cow: Int32, timestamp_ms: Int64) -> Bools:
    """Which readings are the last of their animal's minute; sorted by animal, then instant."""
    minute = timestamp_ms // MS_PER_MINUTE
    last = np.ones(len(cow), np.bool_)
    last[:-1] = (np.diff(cow) != 0) | (np.diff(minute) != 0)
    return last


def joined(parts: Sequence[Buckets], channels: Sequence[str]) -> Buckets:
    """Entries of several spans in one; without parts, none."""
    none = np.empty(0, np.int64)
    empty = Figures(none, *(np.empty(0) for _ in range(4)))
    parts = [Buckets(none.astype(np.int32), none, none, dict.fromkeys(channels, empty)), *parts]
    found = {}
    for name in channels:
        ones = [part.channels[name] for part in parts]
        found[name] = Figures(
            *(np.concatenate([getattr(one, figure) for one in ones]) for figure in Figures.__struct_fields__)
        )
    return Buckets(
        np.concatenate([part.cow for part in parts]),
        np.concatenate([part.start_ms for part in parts]),
        np.concatenate([part.n for part in parts]),
        found,
    )


def widened(narrow: Buckets, step_ms: int) -> Buckets:
    """Wider buckets out of narrow ones in any order; exact but for the rounding of the means."""
    ordered = narrow.take(np.lexsort((narrow.start_ms, narrow.cow)))
    starts_ms = ordered.start_ms // step_ms * step_ms
    first = np.flatnonzero(_changes(ordered.cow) | _changes(starts_ms))
    if len(first) == 0:
        return ordered
    channels = {name: _merged(figures, first) for name, figures in ordered.channels.items()}
    n = np.add.reduceat(ordered.n, first)
    return Buckets(ordered.cow[first], starts_ms[first], n, channels)


def _merged(parts: Figures, first: Int64) -> Figures:
    """Figures of neighbours in time order as those of one; `first` is where each wide bucket begins."""
    total = np.add.reduceat(parts.n, first)
    weighted = np.add.reduceat(np.where(parts.n > 0, parts.mean * parts.n, 0.0), first)
    return Figures(
        n=total,
        low=np.fmin.reduceat(parts.low, first),
        mean=_divided(weighted, total),
        high=np.fmax.reduceat(parts.high, first),
        last=_last(parts.last, first),
    )


def _changes(column: npt.NDArray[np.int32] | Int64) -> Bools:
    changed = np.ones(len(column), np.bool_)
    changed[1:] = column[1:] != column[:-1]
    return changed


def _figures(column: Float64, first: Int64) -> Figures:
    if len(first) == 0:
        return Figures(first, *(np.empty(0) for _ in range(4)))
    known = ~np.isnan(column)
    n = np.add.reduceat(known.astype(np.int64), first)
    return Figures(
        n=n,
        low=np.fmin.reduceat(column, first),
        mean=_divided(np.add.reduceat(np.where(known, column, 0.0), first), n),
        high=np.fmax.reduceat(column, first),
        last=_last(column, first),
    )


def _last(column: Float64, first: Int64) -> Float64:
    place = np.maximum.reduceat(np.where(np.isnan(column), -1, np.arange(len(column))), first)
    return np.where(place < 0, np.nan, column[place])


def _divided(total: Float64, n: Int64) -> Float64:
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
