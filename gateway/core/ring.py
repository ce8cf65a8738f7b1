"""The last 8 h of every animal, minute by minute: what the detectors' views are copied from.

Pure. Part of `Windows`, which is fed on the event loop and read in the detectors' worker thread
under the lock of services/detect.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.instants import MS_PER_MINUTE
from gateway.core.rows import AnimalRows

RING_MINUTES = 480
"""8 h of raw minutes (DESIGN, flow step 6)."""
CENTI, MILLI = 100, 1000
"""Parts of 1 °C and of 1 g: the resolution of the store, so that a restart changes no number. Temperatures
of 35–42 °C and axes of ±2 g take a tenth of the room of 16 bits."""
_NONE_YET = np.iinfo(np.int16).min

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Scaled = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Minutes(msgspec.Struct, frozen=True):
    """Minutes of animals, one entry each: row, minute since the epoch, motion (g, NaN = unknown)."""

    rows: Int64
    minutes: Int64
    motion_g: Float64

    def known(self) -> Minutes:
        """Those whose motion is known."""
        known = ~np.isnan(self.motion_g)
        return Minutes(self.rows[known], self.minutes[known], self.motion_g[known])


class MinuteRing(AnimalRows):
    """One slot a minute and animal, 20 B.

    Its minute 4 B, milliseconds in it 2 B, temperature, peak and three axes 2 B each as whole numbers, the
    reported motion 4 B (up to 100 in a collar's own measure, NaN = not sent).
    """

    def __init__(self, capacity: int) -> None:
        shape = (capacity, RING_MINUTES)
        self._stamp = np.full(shape, -1, np.int32)
        self._offset_ms = np.zeros(shape, np.uint16)
        self._temperature = np.zeros(shape, np.int16)
        self._peak = np.zeros(shape, np.int16)
        self._fxa = np.zeros(shape, np.int16)
        self._mya = np.zeros(shape, np.int16)
        self._rza = np.zeros(shape, np.int16)
        self._reported_g = np.zeros(shape, np.float32)
        self.newest = np.full(capacity, -1, np.int64)
        """Newest minute of each animal, -1 if there is none."""

    def _axes(self) -> tuple[Scaled, Scaled, Scaled]:
        return self._fxa, self._mya, self._rza

    def write(self, rows: Int64, timestamps_ms: Int64, values: Float64) -> Int64:
        """Take up readings; what is older than the ring is left out.

        Args:
            rows: animal of each reading.
            timestamps_ms: UTC epoch ms, ascending for each animal.
            values: [n, 5]: temperature °C, three axes g, reported motion g (NaN = not sent).

        Returns:
            The minutes that were empty before, as keys for `motion_of` and `motion_after`: row and
            minute in one number that sorts like the pair (minutes stay below 2³² until 10136).
        """
        minutes = timestamps_ms // MS_PER_MINUTE
        np.maximum.at(self.newest, rows, minutes)
        held = minutes > self.newest[rows] - RING_MINUTES
        rows, minutes, values = rows[held], minutes[held], values[held]
        offsets = (timestamps_ms[held] % MS_PER_MINUTE).astype(np.uint16)
        slots = minutes % RING_MINUTES
        opened = self._stamp[rows, slots] != minutes
        at = rows[opened], slots[opened]
        self._stamp[at] = minutes[opened]
        self._offset_ms[at] = 0
        self._peak[at] = _NONE_YET
        temperature = _scaled(values[:, 0], CENTI)
        np.maximum.at(self._peak, (rows, slots), temperature)
        last = offsets >= self._offset_ms[rows, slots]
        at = rows[last], slots[last]
        # Ascending order: where a minute holds several, the last one written is the latest.
        self._offset_ms[at] = offsets[last]
        self._temperature[at] = temperature[last]
        for axis, column in zip(self._axes(), values[last, 1:4].T, strict=True):
            axis[at] = _scaled(column, MILLI)
        self._reported_g[at] = values[last, 4]
        keys = np.sort((rows[opened] << 32) | minutes[opened])
        again = np.zeros(len(keys), np.bool_)
        again[1:] = keys[1:] == keys[:-1]
        return keys[~again]

    def motion_of(self, opened: Int64) -> Minutes:
        """Motion of freshly opened minutes, where it or the minute before makes it known."""
        rows, minutes = opened >> 32, opened & 0xFFFFFFFF
        slots, before = minutes % RING_MINUTES, (minutes - 1) % RING_MINUTES
        squares = np.zeros(len(rows), np.float64)
        for axis in self._axes():
            squares += (axis[rows, slots].astype(np.float64) - axis[rows, before]) ** 2
        motion_g = np.sqrt(squares) / MILLI
        motion_g[self._stamp[rows, before] != minutes - 1] = np.nan
        reported = self._reported_g[rows, slots].astype(np.float64)
        return Minutes(rows, minutes, np.where(np.isnan(reported), motion_g, reported)).known()

    def motion_after(self, opened: Int64) -> Minutes:
        """Motion of the minutes that had to wait for these: their successor was there already."""
        after = opened + 1
        rows, minutes = after >> 32, after & 0xFFFFFFFF
        slots = minutes % RING_MINUTES
        waited = self._stamp[rows, slots] == minutes
        waited &= np.isnan(self._reported_g[rows, slots])
        waited[:-1] &= after[:-1] != opened[1:]  # sorted: opened itself, so `motion_of` has it
        return self.motion_of(after[waited])

    def newest_until(self, animals_n: int, minute: int) -> Int64:
        """Newest minute not after `minute` of each of the first animals, -1 if there is none."""
        stamp = self._stamp[:animals_n]
        newest = np.where(stamp <= minute, stamp, np.int32(-1)).max(axis=1, initial=-1)
        return np.asarray(newest, np.int64)

    def holds(self, rows: Int64, minutes: Int64) -> Bools:
        """Shape [rows, minutes]: which of the given minutes hold a reading."""
        return np.asarray(self._stamp[rows[:, None], minutes % RING_MINUTES] == minutes, np.bool_)

    def stamps(self, rows: Int64) -> npt.NDArray[np.int32]:
        """Shape [rows, RING_MINUTES]: the minutes held, -1 where a slot is empty; in no order."""
        return self._stamp[rows]

    def grids(self, rows: Int64, now: Int64, minutes_n: int) -> tuple[Floats, Int64]:
        """Copy out the minutes that end at each animal's `now`.

        Returns:
            Channels as [6, rows, minutes]: temperature, peak, three axes, reported motion; and the
            instant of the last column's reading, UTC epoch ms.
        """
        wanted = now[:, None] - np.arange(minutes_n - 1, -1, -1)
        places = wanted % RING_MINUTES
        places += rows[:, None] * RING_MINUTES  # in the arrays as one row: half the time of two indices
        missing = self._stamp.ravel().take(places) != wanted
        grids = np.empty((6, *places.shape), np.float32)
        for grid, channel in zip(grids, (self._temperature, self._peak, *self._axes()), strict=False):
            grid[:] = channel.ravel().take(places)
        grids[:2] /= CENTI
        grids[2:5] /= MILLI
        grids[5] = self._reported_g.ravel().take(places)
        np.copyto(grids, np.float32(np.nan), where=missing)
        offsets = np.where(missing[:, -1], 0, self._offset_ms[rows, now % RING_MINUTES])
        return grids, now * MS_PER_MINUTE + offsets.astype(np.int64)


def _scaled(values: Float64, per_unit: int) -> Scaled:
    """As the store rounds."""
    return np.rint(values * per_unit).astype(np.int16)
