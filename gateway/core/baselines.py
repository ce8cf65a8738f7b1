"""What is usual for an animal at an hour of the day: hourly bins and the baselines drawn from them.

Pure; the bins are fed with the windows and read in the detectors' worker thread, under its lock.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.instants import HOURS_PER_DAY, MINUTES_PER_HOUR
from gateway.core.rows import AnimalRows
from gateway.core.statistics import row_median

BIN_DAYS = 15
BINS = BIN_DAYS * HOURS_PER_DAY
"""15 days of hours: 14 days of reference for any hour of the day before the last 24 h, ± 2 h."""
REFERENCE_DAYS = 14
"""Days looked back on: two weeks hold the weekly routine of a barn and outlast an illness."""
REFERENCE_HOURS_AROUND = 2
"""Hours on either side of the hour of the day. Body temperature follows the day by about
0.5 °C; within 2 h the curve moves by less than 0.2 °C, and five times the bins steady the median."""
DAYS_MIN = 4
"""Days of own history before a baseline is known; below it the answer is NaN, never 0."""
BINS_MIN = 12
"""Hours of own history before a baseline is known: 4 days × 3 of the 5 hours."""
SIGMA_FLOOR_C = 0.15
"""No cow is steadier than this from day to day at the same hour; keeps a constant sender's
σ of 0 from turning 0.1 °C into a miracle."""
MAD_TO_SIGMA = 1.4826
"""σ of a normal distribution over its median absolute deviation."""

CENTI = 100
"""Parts of 1 °C: the resolution of the store, and of the sums."""

Counts = npt.NDArray[np.uint16] | npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32] | npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Baselines(msgspec.Struct, frozen=True):
    """Baselines of the animals of a window at each one's own "now", one entry each.

    Args:
        temperature_c: median of the hourly means, °C; NaN while unknown.
        sigma_c: spread of those means, °C (1.4826 × MAD, not below 0.15); NaN while unknown.
        motion_g: median of the hourly mean motion, g; NaN while unknown.
        n: hourly bins behind them.
        days_n: different days among these bins.
        varied: whether any hourly mean of the last 15 days differs from the newest temperature by
            more than 0.02 °C: a sender whose temperature has moved before (see the frozen rule).
    """

    temperature_c: Float64
    sigma_c: Float64
    motion_g: Float64
    n: Int32
    days_n: Int32
    varied: Bools


VARIED_C = 0.02
"""Two steps of a sensor's 0.01 °C resolution: beyond rounding of an hourly mean."""


class StoredHours(msgspec.Struct, frozen=True, eq=False):
    """Hours of animals as the store has them, one entry each.

    Args:
        hour: hours since 1970.
        n, temperature_mean_c: readings of that hour, at least one, and their mean in °C.
        motion_n, motion_mean_g: minutes with known motion and their mean in g; NaN = none.
    """

    hour: Int64
    n: Float64
    temperature_mean_c: Float64
    motion_n: Float64
    motion_mean_g: Float64

    def where(self, held: Bools | slice) -> StoredHours:
        """Some of the entries."""
        return StoredHours(*(getattr(self, name)[held] for name in self.__struct_fields__))


class HourBins(AnimalRows):
    """Hourly sums of every animal, by row: a ring of 15 days, stamped with its hour; 16 B an hour.

    Hour 4 B, readings 2 B, the sum of their temperatures in 1/100 °C 4 B (65,535 × 4200 = 2.8 × 10⁸, far
    below 2³¹), minutes with motion 1 B, the sum of these 4 B, alarm 1 B.
    """

    def __init__(self, capacity: int) -> None:
        shape = (capacity, BINS)
        self._hour = np.full(shape, -1, np.int32)
        self._n = np.zeros(shape, np.uint16)
        self._temperature_sum = np.zeros(shape, np.int32)
        self._motion_n = np.zeros(shape, np.uint8)  # one a minute, so at most 60
        self._motion_sum = np.zeros(shape, np.float32)
        self._tainted = np.zeros(shape, np.bool_)

    def add_temperatures(self, rows: Int64, hours: Int64, temperature_c: Float64) -> None:
        """Add readings; hours already overwritten by newer ones are left out."""
        places, keep = self._open(rows, hours)
        _add(self._n, self._temperature_sum, places, np.rint(temperature_c[keep] * CENTI))

    def add_motion(self, rows: Int64, hours: Int64, motion_g: Float64) -> None:
        """Add one minute's motion each."""
        places, keep = self._open(rows, hours)
        _add(self._motion_n, self._motion_sum, places, motion_g[keep])

    def load(self, rows: Int64, stored: StoredHours) -> None:
        """Add whole hours to what their bins hold already, one entry a row and hour."""
        places, keep = self._open(rows, stored.hour)
        n, motion_n = stored.n[keep], np.nan_to_num(stored.motion_n[keep])
        _add_many(self._n, self._temperature_sum, places, n, stored.temperature_mean_c[keep] * CENTI)
        motion_g = np.nan_to_num(stored.motion_mean_g[keep])
        _add_many(self._motion_n, self._motion_sum, places, motion_n, motion_g)

    def taint(self, row: int, from_hour: int, to_hour: int) -> None:
        """Hours of an alarm: baselines never learn from them."""
        hours = np.arange(max(from_hour, to_hour - BINS + 1), to_hour + 1)
        held = self._hour[row, hours % BINS] == hours
        self._tainted[row, (hours % BINS)[held]] = True

    def _open(self, rows: Int64, hours: Int64) -> tuple[Int64, Bools]:
        """Empty the slots whose hour is new; answer the given entries that have a slot, and where."""
        places = rows * BINS + hours % BINS
        stamps = self._hour.reshape(-1)
        before = stamps[places]
        np.maximum.at(stamps, places, hours.astype(np.int32))
        now = stamps[places]
        reset = places[now > before]
        if len(reset):
            for column in (self._n, self._temperature_sum, self._motion_n, self._motion_sum, self._tainted):
                column.reshape(-1)[reset] = 0
        keep = now == hours
        return places[keep], keep

    def baselines(self, rows: Int64, now_minute: Int64, temperature_c: Float64) -> Baselines:
        """Baselines of `rows` at each one's own minute; `temperature_c` is what each shows now."""
        hour = now_minute // MINUTES_PER_HOUR
        days = np.arange(1, REFERENCE_DAYS + 1)
        around = np.arange(-REFERENCE_HOURS_AROUND, REFERENCE_HOURS_AROUND + 1)
        back = (days[:, None] * HOURS_PER_DAY - around[None, :]).ravel()
        day_of = np.repeat(days, len(around))
        # The last 24 h are left out: an illness that has begun must not become its own baseline.
        late_enough = back >= HOURS_PER_DAY
        back, day_of = back[late_enough], day_of[late_enough]
        wanted = hour[:, None] - back[None, :]
        places = rows[:, None] * BINS + wanted % BINS
        held = (self._hour.ravel().take(places) == wanted) & ~self._tainted.ravel().take(places)
        n = self._n.ravel().take(places)
        known = held & (n > 0)
        sums = self._temperature_sum.ravel().take(places)
        means = np.where(known, sums / (CENTI * np.maximum(n, 1, dtype=np.float64)), np.nan)
        motion_n = self._motion_n.ravel().take(places)
        moved = self._motion_sum.ravel().take(places) / np.maximum(motion_n, 1, dtype=np.float64)
        motions = np.where(held & (motion_n > 0), moved, np.nan)
        bins_n = known.sum(axis=1)
        days_n = np.zeros(len(rows), np.int64)
        for day in range(1, REFERENCE_DAYS + 1):
            days_n += known[:, day_of == day].any(axis=1)
        enough = (bins_n >= BINS_MIN) & (days_n >= DAYS_MIN)
        median = row_median(means)
        sigma = np.maximum(SIGMA_FLOOR_C, MAD_TO_SIGMA * row_median(np.abs(means - median[:, None])))
        return Baselines(
            temperature_c=np.where(enough, median, np.nan),
            sigma_c=np.where(enough, sigma, np.nan),
            motion_g=np.where(enough, row_median(motions), np.nan),
            n=bins_n.astype(np.int32),
            days_n=days_n.astype(np.int32),
            varied=self._varied(rows, temperature_c),
        )

    def _varied(self, rows: Int64, temperature_c: Float64) -> Bools:
        n = self._n[rows]
        # Both sides times n: a division less in an array of 15 days.
        apart = np.abs(self._temperature_sum[rows] - n * (CENTI * temperature_c)[:, None])
        return np.asarray((apart > n * (CENTI * VARIED_C)).any(axis=1), np.bool_)


def _add(counts: Counts, sums: Sums, places: Int64, values: Float64) -> None:
    """Add values to the bins at `places`, several to one if need be; a full bin is left as it is."""
    touched, which, n = np.unique(places, return_inverse=True, return_counts=True)
    _add_many(counts, sums, touched, n.astype(np.float64), np.bincount(which, values, len(touched)) / n)


def _add_many(counts: Counts, sums: Sums, places: Int64, n: Float64, means: Float64) -> None:
    """Add `n` values with these means to each of different bins, or as many as it has room for.

    Only a collar that sends 18 readings a second fills one; the mean of those it took stands.
    """
    counts, sums = counts.reshape(-1), sums.reshape(-1)
    n = np.minimum(n, np.iinfo(counts.dtype).max - counts[places].astype(np.float64))
    total = n * means
    counts[places] += n.astype(counts.dtype)
    sums[places] += (np.rint(total) if sums.dtype.kind == "i" else total).astype(sums.dtype)
