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
_CHANNELS = 6
_TEMPERATURE, _PEAK, _AXES, _REPORTED = 0, 1, (2, 3, 4), 5

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
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
    """One slot a minute and animal: its minute 4 B, milliseconds in it 2 B, six values 4 B each."""

    def __init__(self, capacity: int) -> None:
        self._stamp = np.full((capacity, RING_MINUTES), -1, np.int32)
        self._offset_ms = np.zeros((capacity, RING_MINUTES), np.uint16)
        self._values = np.full((capacity, _CHANNELS, RING_MINUTES), np.nan, np.float32)
        self.newest = np.full(capacity, -1, np.int64)
        """Newest minute of each animal, -1 if there is none."""

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
        self._values[at[0], :, at[1]] = np.nan
        temperature_c = values[:, 0].astype(np.float32)
        np.fmax.at(self._values[:, _PEAK], (rows, slots), temperature_c)
        last = offsets >= self._offset_ms[rows, slots]
        rows_last, slots_last = rows[last], slots[last]
        # Ascending order: where a minute holds several, the last one written is the latest.
        self._offset_ms[rows_last, slots_last] = offsets[last]
        self._values[rows_last, _TEMPERATURE, slots_last] = temperature_c[last]
        self._values[rows_last, 2:, slots_last] = values[last, 1:].astype(np.float32)
        keys = np.sort((rows[opened] << 32) | minutes[opened])
        again = np.zeros(len(keys), np.bool_)
        again[1:] = keys[1:] == keys[:-1]
        return keys[~again]

    def motion_of(self, opened: Int64) -> Minutes:
        """Motion of freshly opened minutes, where it or the minute before makes it known."""
        rows, minutes = opened >> 32, opened & 0xFFFFFFFF
        slots, before = minutes % RING_MINUTES, (minutes - 1) % RING_MINUTES
        step = [self._values[rows, axis, slots] - self._values[rows, axis, before] for axis in _AXES]
        motion_g = np.sqrt((np.stack(step).astype(np.float64) ** 2).sum(axis=0))
        motion_g[self._stamp[rows, before] != minutes - 1] = np.nan
        reported = self._values[rows, _REPORTED, slots].astype(np.float64)
        return Minutes(rows, minutes, np.where(np.isnan(reported), motion_g, reported)).known()

    def motion_after(self, opened: Int64) -> Minutes:
        """Motion of the minutes that had to wait for these: their successor was there already."""
        after = opened + 1
        rows, minutes = after >> 32, after & 0xFFFFFFFF
        slots = minutes % RING_MINUTES
        waited = self._stamp[rows, slots] == minutes
        waited &= np.isnan(self._values[rows, _REPORTED, slots])
        waited[:-1] &= after[:-1] != opened[1:]  # sorted: opened itself, so `motion_of` has it
        return self.motion_of(after[waited])

    def newest_until(self, animals_n: int, minute: int) -> Int64:
        """Newest minute not after `minute` of each of the first animals, -1 if there is none."""
        stamp = self._stamp[:animals_n]
        newest = np.where(stamp <= minute, stamp, -1).max(axis=1, initial=-1)
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
        slots = wanted % RING_MINUTES
        held = self._stamp[rows[:, None], slots] == wanted
        grids = np.stack([self._values[rows[:, None], channel, slots] for channel in range(_CHANNELS)])
        grids[:, ~held] = np.nan
        offsets = np.where(held[:, -1], self._offset_ms[rows, now % RING_MINUTES], 0)
        return grids, now * MS_PER_MINUTE + offsets.astype(np.int64)
