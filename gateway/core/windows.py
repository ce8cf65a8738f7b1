"""The last hours of the whole herd in memory: minute rings, hourly bins, and what waits to be judged.

`Windows` is fed on the event loop after each commit and read in the detectors' worker thread; the
lock of services/detect keeps the two apart. Pure: no clock, no store.

Memory per animal:
  minute ring  480 × (stamp 4 + 6 values × 4 + offset 2) B  = 14,400 B
  hourly bins  360 × (hour 4 + n 4 + sum 8 + motion 2 + 4 + tainted 1) B = 8,280 B
  arrivals, rejects, spans                                  about 200 B
so 22.9 KB, 23 MB for 1000 animals (capacity 1024: 23.4 MB), 114 MB for the 5000 of decision 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.arrivals import ArrivalBook, RejectBook
from gateway.core.baselines import MINUTES_PER_HOUR, Baselines, HourBins
from gateway.core.herd import MS_PER_MINUTE, VIEW_MINUTES, HerdWindow, Pending, Span
from gateway.core.motion import motion_grid_g
from gateway.core.readings import Reading

RING_MINUTES = 480
"""8 h of raw minutes (DESIGN, flow step 6)."""
LEAD_MINUTES = 60
"""History a step needs in front of it; a span with less in the ring is replayed from the store."""
HERD_MINUTES = 60
"""An animal heard within this of a step is herd context."""
ANIMALS_MAX = 5000
"""Bound on ghost ids (decision 9)."""
LATE_HOURS_MAX = 50_000
"""Animal-hours waiting for a replay: two days of backlog of 1000 collars, about 5 MB."""
_FIRST_CAPACITY = 64

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Windows:
    """Minute rings and hourly bins of every animal; grows by doubling up to `animals_max`."""

    def __init__(self, animals_max: int = ANIMALS_MAX) -> None:
        self._animals_max = animals_max
        self._row_of: dict[str, int] = {}
        self._names: list[str] = []
        self._allocate(min(_FIRST_CAPACITY, animals_max))
        self._arrivals = ArrivalBook(self._capacity)
        self._rejects = RejectBook(self._capacity)
        self._bins = HourBins(self._capacity)
        self._late: set[tuple[str, int]] = set()
        self.animals_refused = 0
        """Readings of animals beyond the bound, not taken up."""
        self.late_refused = 0
        """Animal-hours that were not replayed because too many were waiting."""

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        ring = (capacity, RING_MINUTES)
        self._stamp = np.full(ring, -1, np.int32)
        self._offset_ms = np.zeros(ring, np.uint16)
        self._values = np.full((6, *ring), np.nan, np.float32)  # temperature, peak, axes, reported motion
        self._newest = np.full(capacity, -1, np.int64)
        self._from = np.full(capacity, -1, np.int64)
        self._to = np.full(capacity, -1, np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, cow_id: object) -> bool:
        return cow_id in self._row_of

    @property
    def animals(self) -> tuple[str, ...]:
        """Every animal known, in order of first appearance."""
        return tuple(self._names)

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        own = (self._stamp, self._offset_ms, self._values, self._newest, self._from, self._to)
        books = self._arrivals.nbytes + self._rejects.nbytes + self._bins.nbytes
        return books + sum(array.nbytes for array in own)

    def _row(self, cow_id: str) -> int | None:
        row = self._row_of.get(cow_id)
        if row is not None:
            return row
        if len(self._names) >= self._animals_max:
            self.animals_refused += 1
            return None
        if len(self._names) == self._capacity:
            self._grow(min(2 * self._capacity, self._animals_max))
        row = self._row_of[cow_id] = len(self._names)
        self._names.append(cow_id)
        return row

    def _grow(self, capacity: int) -> None:
        n = self._capacity
        stamp, offset_ms, values = self._stamp, self._offset_ms, self._values
        newest, from_minute, to_minute = self._newest, self._from, self._to
        self._allocate(capacity)
        self._stamp[:n], self._offset_ms[:n], self._values[:, :n] = stamp, offset_ms, values
        self._newest[:n], self._from[:n], self._to[:n] = newest, from_minute, to_minute
        self._arrivals.grow(capacity)
        self._rejects.grow(capacity)
        self._bins.grow(capacity)

    # -- feeding ---------------------------------------------------------------------------------

    def feed(self, readings: Sequence[Reading]) -> None:
        """Take up committed readings: values, arrival, and the span that waits to be judged."""
        taken: list[tuple[int, Reading]] = []
        for reading in readings:
            row = self._row(reading.cow_id)
            if row is not None:
                taken.append((row, reading))
                self._arrivals.arrived(row, reading.received_s, reading.timestamp_ms)
                self._rejects.accepted(row)
        if not taken:
            return
        taken.sort(key=lambda item: item[1].timestamp_ms)
        rows = np.array([row for row, _ in taken], np.int64)
        timestamps_ms = np.array([r.timestamp_ms for _, r in taken], np.int64)
        values = np.array(
            [
                (
                    r.temperature_c,
                    r.fxa_g,
                    r.mya_g,
                    r.rza_g,
                    np.nan if r.motion_intensity is None else r.motion_intensity,
                )
                for _, r in taken
            ],
            np.float64,
        )
        self._scatter(rows, timestamps_ms, values)
        self._mark(rows, timestamps_ms // MS_PER_MINUTE)

    def load(
        self,
        cow_id: str,
        timestamps_ms: Int64,
        values: Float64,
        *,
        pending_from_minute: int | None = None,
    ) -> None:
        """Take up one animal's stored readings without counting them as arrivals.

        Args:
            cow_id: the animal.
            timestamps_ms: ascending, UTC epoch ms.
            values: [n, 5]: temperature °C, three axes g, reported motion g (NaN = not sent).
            pending_from_minute: readings from here on wait to be judged (after a restart nobody
                knows whether they were); None = none do.
        """
        row = self._row(cow_id)
        if row is None or not len(timestamps_ms):
            return
        rows = np.full(len(timestamps_ms), row, np.int64)
        self._scatter(rows, timestamps_ms, values)
        if pending_from_minute is not None:
            minutes = timestamps_ms // MS_PER_MINUTE
            recent = minutes >= pending_from_minute
            self._mark(rows[recent], minutes[recent])

    def load_hours(self, cow_id: str, timestamps_ms: Int64, temperature_c: Float64) -> None:
        """Set the hourly bins of whole hours from the store; the minute ring stays as it is."""
        row = self._row(cow_id)
        if row is not None and len(timestamps_ms):
            self._bins.load(row, timestamps_ms // (MS_PER_MINUTE * MINUTES_PER_HOUR), temperature_c)

    def reject(
        self,
        cow_id: str,
        minute: int | None,
        now_minute: int,
        received_s: float,
        *,
        fault: bool,
        temperature_c: float | None,
        hot: bool,
    ) -> None:
        """A message of an animal was refused.

        Args:
            cow_id: the animal; ids no reading was ever stored for are taken up too, because a
                collar that was broken from the first day would otherwise stay unseen, but they
                never use more than half of the room.
            minute: data minute of the message, None if it could not be read.
            now_minute: the gateway's minute, used when neither message nor animal has one.
            received_s: arrival, monotonic seconds.
            fault: whether it speaks against the sensor; a wrong clock does not.
            temperature_c: the value refused, if it was the temperature.
            hot: whether that value may be a fever (decision 4).
        """
        known = cow_id in self._row_of
        if not known and (not fault or 2 * len(self._names) >= self._animals_max):
            return
        row = self._row(cow_id)
        if row is None:
            return
        self._arrivals.arrived(row, received_s, None)
        if not fault:
            return
        newest = int(self._newest[row])
        at = minute if minute is not None else newest if newest >= 0 else now_minute
        self._rejects.refused(row, at, temperature_c, hot=hot)
        self._mark(np.array([row]), np.array([at]))

    def _scatter(self, rows: Int64, timestamps_ms: Int64, values: Float64) -> None:
        """Write readings, ascending in time, into ring and bins."""
        minutes = timestamps_ms // MS_PER_MINUTE
        self._bins.add_temperatures(rows, minutes // MINUTES_PER_HOUR, values[:, 0])
        np.maximum.at(self._newest, rows, minutes)
        held = minutes > self._newest[rows] - RING_MINUTES
        rows, minutes, values = rows[held], minutes[held], values[held]
        offsets = (timestamps_ms[held] % MS_PER_MINUTE).astype(np.uint16)
        slots = minutes % RING_MINUTES
        opened = self._stamp[rows, slots] != minutes
        at = rows[opened], slots[opened]
        self._stamp[at] = minutes[opened]
        self._offset_ms[at] = 0
        self._values[:, at[0], at[1]] = np.nan
        temperature_c = values[:, 0].astype(np.float32)
        np.fmax.at(self._values[1], (rows, slots), temperature_c)
        last = offsets >= self._offset_ms[rows, slots]
        rows_last, slots_last = rows[last], slots[last]
        # Ascending order: where a minute holds several, the last one written is the latest.
        self._offset_ms[rows_last, slots_last] = offsets[last]
        self._values[0, rows_last, slots_last] = temperature_c[last]
        self._values[2:, rows_last, slots_last] = values[last, 1:].T.astype(np.float32)
        self._add_motion(rows[opened], minutes[opened])

    def _add_motion(self, rows: Int64, minutes: Int64) -> None:
        """Motion of freshly opened minutes into the bins.

        It needs the minute before, so a reading that comes late and out of order adds its values
        to the grid but no motion to the hour.
        """
        keys = np.unique(np.stack([rows, minutes]), axis=1)
        rows, minutes = keys[0], keys[1]
        slots, before = minutes % RING_MINUTES, (minutes - 1) % RING_MINUTES
        step = self._values[2:5, rows, slots] - self._values[2:5, rows, before]
        motion = np.sqrt((step.astype(np.float64) ** 2).sum(axis=0))
        motion[self._stamp[rows, before] != minutes - 1] = np.nan
        reported = self._values[5, rows, slots].astype(np.float64)
        motion = np.where(np.isnan(reported), motion, reported)
        known = ~np.isnan(motion)
        self._bins.add_motion(rows[known], minutes[known] // MINUTES_PER_HOUR, motion[known])

    # -- what waits to be judged -----------------------------------------------------------------

    def _mark(self, rows: Int64, minutes: Int64) -> None:
        """Widen the spans; what the ring cannot judge becomes an hour to replay."""
        late = minutes < self._newest[rows] - (RING_MINUTES - 1 - LEAD_MINUTES)
        for row, minute in zip(rows[late].tolist(), minutes[late].tolist(), strict=True):
            self.mark_late(self._names[row], minute // MINUTES_PER_HOUR)
        rows, minutes = rows[~late], minutes[~late]
        empty = self._to[rows] < 0
        self._from[rows[empty]] = minutes[empty]  # any of the new ones; the minimum follows
        np.minimum.at(self._from, rows, minutes)
        np.maximum.at(self._to, rows, minutes)

    def mark_late(self, cow_id: str, hour: int) -> None:
        """Note one hour of an animal for a replay from the store."""
        if len(self._late) >= LATE_HOURS_MAX and (cow_id, hour) not in self._late:
            self.late_refused += 1
            return
        self._late.add((cow_id, hour))

    def take_spans(self) -> Pending:
        """Answer and forget what waits to be judged."""
        live: list[Span] = []
        for row in np.flatnonzero(self._to >= 0).tolist():
            from_minute, to_minute = int(self._from[row]), int(self._to[row])
            floor = int(self._newest[row]) - (RING_MINUTES - 1 - LEAD_MINUTES)
            if from_minute < floor:  # the ring moved on since it was marked
                for hour in range(from_minute // MINUTES_PER_HOUR, floor // MINUTES_PER_HOUR + 1):
                    self.mark_late(self._names[row], hour)
            if to_minute >= floor:
                live.append(Span(self._names[row], max(from_minute, floor), to_minute))
        self._from[:] = -1
        self._to[:] = -1
        late = tuple(sorted(self._late, key=lambda item: (item[1], item[0])))
        self._late.clear()
        return Pending(tuple(live), late)

    def give_back(self, spans: Sequence[Span]) -> None:
        """Return spans that were not judged after all."""
        for span in spans:
            row = np.array([self._row_of[span.cow_id]] * 2)
            self._mark(row, np.array([span.from_minute, span.to_minute]))

    def steps(self, spans: Sequence[Span], step_minutes: int) -> list[int]:
        """First minutes of the steps in which any of the spans holds data, ascending.

        Steps lie on multiples of `step_minutes` since the epoch, so the same data falls into the
        same steps whatever the moment of the run.
        """
        if not spans:
            return []
        rows = np.array([self._row_of[span.cow_id] for span in spans])
        low = np.array([span.from_minute for span in spans])[:, None]
        high = np.array([span.to_minute for span in spans])[:, None]
        refused = self._rejects.minutes(rows)[:, None]
        minutes = np.concatenate([self._stamp[rows], refused], axis=1)
        inside = minutes[(minutes >= low) & (minutes <= high)]
        return [int(step) * step_minutes for step in np.unique(inside // step_minutes)]

    def taint(self, cow_id: str, from_minute: int, to_minute: int) -> None:
        """Keep an alarm span out of the animal's baselines."""
        row = self._row_of.get(cow_id)
        if row is not None:
            self._bins.taint(row, from_minute // MINUTES_PER_HOUR, to_minute // MINUTES_PER_HOUR)

    # -- views -----------------------------------------------------------------------------------

    def view(
        self, spans: Sequence[Span], step_from_minute: int, step_minutes: int, now_s: float
    ) -> HerdWindow:
        """Copy out the herd as it stood at the end of a step.

        Rows: animals with new data in the step (`judge`), and those whose newest reading not after
        the step lies within an hour of it.
        """
        n = len(self._names)
        step_to = step_from_minute + step_minutes - 1
        stamp = self._stamp[:n]
        now = np.where(stamp <= step_to, stamp, -1).max(axis=1, initial=-1).astype(np.int64)
        judge = np.zeros(n, np.bool_)
        if spans:
            rows = np.array([self._row_of[span.cow_id] for span in spans])
            low = np.maximum(np.array([span.from_minute for span in spans]), step_from_minute)[:, None]
            high = np.minimum(np.array([span.to_minute for span in spans]), step_to)[:, None]
            steps = np.arange(step_from_minute, step_to + 1)
            held = stamp[rows[:, None], steps % RING_MINUTES] == steps
            fresh = (held & (steps >= low) & (steps <= high)).any(axis=1)
            refused = self._rejects.minutes(rows)
            judge[rows] = fresh | ((refused >= low[:, 0]) & (refused <= high[:, 0]))
        now = np.where(judge & (now < 0), step_to, now)  # refused messages only: an empty row
        shown = np.flatnonzero(judge | (now > step_to - HERD_MINUTES))
        return self._copy(shown, now[shown], judge[shown], step=(step_from_minute, step_to), now_s=now_s)

    def _copy(
        self,
        rows: Int64,
        now: Int64,
        judge: Bools,
        *,
        step: tuple[int, int],
        now_s: float,
        view_minutes: int = VIEW_MINUTES,
    ) -> HerdWindow:
        wanted = now[:, None] - np.arange(view_minutes - 1, -1, -1)
        at = rows[:, None], wanted % RING_MINUTES
        held = self._stamp[at] == wanted
        grids = np.where(held, self._values[:, at[0], at[1]], np.float32(np.nan))
        offsets = np.where(held[:, -1], self._offset_ms[rows, now % RING_MINUTES], 0)
        return HerdWindow(
            animals=tuple(self._names[row] for row in rows.tolist()),
            step_from_minute=step[0],
            step_to_minute=step[1],
            now_minute=now,
            now_ms=now * MS_PER_MINUTE + offsets.astype(np.int64),
            judge=judge,
            temperature_trusted=np.ones(len(rows), np.bool_),
            temperature_c=grids[0],
            peak_c=grids[1],
            fxa_g=grids[2],
            mya_g=grids[3],
            rza_g=grids[4],
            motion_g=motion_grid_g(grids[2], grids[3], grids[4], grids[5]),
            rejects=self._rejects.view(rows, step[1]),
            arrivals=self._arrivals.view(rows, now_s, look=False),
        )

    def look(self, now_s: float) -> HerdWindow:
        """All animals and their arrivals, one minute wide, for detectors that judge arrival time.

        Closes the look: gaps that close from here on count as new ones.
        """
        rows = np.flatnonzero(self._newest >= 0)
        newest = self._newest[rows]
        step_to = int(newest.max(initial=0))
        everyone = np.ones(len(rows), np.bool_)
        step = (step_to, step_to)
        window = self._copy(rows, newest, everyone, step=step, now_s=now_s, view_minutes=1)
        return msgspec.structs.replace(window, arrivals=self._arrivals.view(rows, now_s, look=True))

    def baselines(self, window: HerdWindow) -> Baselines:
        """What is usual for the animals of a view at each one's own hour."""
        rows = np.array([self._row_of[cow_id] for cow_id in window.animals], np.int64)
        temperature_c = window.temperature_c[:, -1].astype(np.float64)
        return self._bins.baselines(rows, window.now_minute, temperature_c)
