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
    """Hourly sums of every animal, by row: a ring of 15 days, stamped with its hour."""

    def __init__(self, capacity: int) -> None:
        shape = (capacity, BINS)
        self._hour = np.full(shape, -1, np.int32)
        self._n = np.zeros(shape, np.int32)
        self._temperature_sum = np.zeros(shape, np.float64)
        self._motion_n = np.zeros(shape, np.uint16)  # one a minute, so at most 60
        self._motion_sum = np.zeros(shape, np.float32)
        self._tainted = np.zeros(shape, np.bool_)

    def add_temperatures(self, rows: Int64, hours: Int64, temperature_c: Float64) -> None:
        """Add readings; hours already overwritten by newer ones are left out."""
        rows, slots, keep = self._open(rows, hours)
        np.add.at(self._n, (rows, slots), 1)
        np.add.at(self._temperature_sum, (rows, slots), temperature_c[keep])

    def add_motion(self, rows: Int64, hours: Int64, motion_g: Float64) -> None:
        """Add one minute's motion each."""
        rows, slots, keep = self._open(rows, hours)
        np.add.at(self._motion_n, (rows, slots), 1)
        np.add.at(self._motion_sum, (rows, slots), motion_g[keep].astype(np.float32))

    def load(self, rows: Int64, stored: StoredHours) -> None:
        """Add whole hours to what their bins hold already, one entry a row and hour."""
        rows, slots, keep = self._open(rows, stored.hour)
        at = rows, slots
        n, motion_n = stored.n[keep], np.nan_to_num(stored.motion_n[keep])
        np.add.at(self._n, at, n.astype(np.int32))
        np.add.at(self._temperature_sum, at, n * stored.temperature_mean_c[keep])
        np.add.at(self._motion_n, at, motion_n.astype(np.uint16))
        motion_sum = motion_n * np.nan_to_num(stored.motion_mean_g[keep])
        np.add.at(self._motion_sum, at, motion_sum.astype(np.float32))

    def taint(self, row: int, from_hour: int, to_hour: int) -> None:
        """Hours of an alarm: baselines never learn from them."""
        hours = np.arange(max(from_hour, to_hour - BINS + 1), to_hour + 1)
        held = self._hour[row, hours % BINS] == hours
        self._tainted[row, (hours % BINS)[held]] = True

    def _open(self, rows: Int64, hours: Int64) -> tuple[Int64, Int64, Bools]:
        """Empty the slots whose hour is new; answer which of the given entries have a slot."""
        slots = hours % BINS
        before = self._hour[rows, slots]
        np.maximum.at(self._hour, (rows, slots), hours.astype(np.int32))
        reset = self._hour[rows, slots] > before
        at = rows[reset], slots[reset]
        self._n[at] = 0
        self._temperature_sum[at] = 0.0
        self._motion_n[at] = 0
        self._motion_sum[at] = 0.0
        self._tainted[at] = False
        keep = self._hour[rows, slots] == hours
        return rows[keep], slots[keep], keep

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
        at = rows[:, None], wanted % BINS
        held = (self._hour[at] == wanted) & ~self._tainted[at]
        n = self._n[at]
        known = held & (n > 0)
        means = np.where(known, self._temperature_sum[at] / np.maximum(n, 1), np.nan)
        motion_n = self._motion_n[at]
        motions = np.where(
            held & (motion_n > 0), self._motion_sum[at] / np.maximum(motion_n, 1), np.nan
        ).astype(np.float64)
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
        means = self._temperature_sum[rows] / np.maximum(n, 1)
        other = (n > 0) & (np.abs(means - temperature_c[:, None]) > VARIED_C)
        return np.asarray(other.any(axis=1), np.bool_)
