"""The last hours of the whole herd in memory: minute rings, hourly bins, and what waits to be judged.

`Windows` is fed on the event loop after each commit and read in the detectors' worker thread; the
lock of services/detect keeps the two apart. Pure: no clock, no store.

Memory per animal:
  minute ring  480 × 20 B                = 9,600 B
  hourly bins  360 × 16 B                = 5,760 B
  arrivals, rejects, spans               about 150 B
so 15.5 KB, 15.5 MB for 1000 animals (capacity 1024: 15.9 MB), 78 MB for the 5000 of decision 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.core.arrivals import ArrivalBook, RejectBook
from gateway.core.baselines import Baselines, HourBins, StoredHours
from gateway.core.herd import VIEW_MINUTES, HerdWindow, Pending, Span
from gateway.core.instants import MINUTES_PER_HOUR, MS_PER_MINUTE
from gateway.core.motion import motion_grid_g
from gateway.core.readings import Reading
from gateway.core.ring import RING_MINUTES, MinuteRing, Minutes
from gateway.core.rows import AnimalRows

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
Indices = npt.NDArray[np.int32]


class _Due(AnimalRows):
    """The span of each animal that waits to be judged, both ends included; -1 = nothing does."""

    def __init__(self, capacity: int) -> None:
        self.from_minute = np.full(capacity, -1, np.int64)
        self.to_minute = np.full(capacity, -1, np.int64)

    def widen(self, rows: Int64, minutes: Int64) -> None:
        """Take these minutes into the spans."""
        empty = self.to_minute[rows] < 0
        self.from_minute[rows[empty]] = minutes[empty]  # any of the new ones; the minimum follows
        np.minimum.at(self.from_minute, rows, minutes)
        np.maximum.at(self.to_minute, rows, minutes)


def _values_of(readings: Sequence[Reading]) -> Float64:
    """As `MinuteRing.write` takes them; a list a column is three times as fast as a tuple a reading."""
    columns = (
        [r.temperature_c for r in readings],
        [r.fxa_g for r in readings],
        [r.mya_g for r in readings],
        [r.rza_g for r in readings],
        [np.nan if r.motion_intensity is None else r.motion_intensity for r in readings],
    )
    return np.array(columns, np.float64).T


class Windows:
    """Minute rings and hourly bins of every animal; grows by doubling up to `animals_max`."""

    def __init__(self, animals_max: int = ANIMALS_MAX) -> None:
        self._animals_max = animals_max
        self._row_of: dict[str, int] = {}
        self._names: list[str] = []
        self._capacity = min(_FIRST_CAPACITY, animals_max)
        self._ring = MinuteRing(self._capacity)
        self._due = _Due(self._capacity)
        self._arrivals = ArrivalBook(self._capacity)
        self._rejects = RejectBook(self._capacity)
        self._bins = HourBins(self._capacity)
        self._late: set[tuple[str, int]] = set()
        self.animals_refused = 0
        """Readings of animals beyond the bound, not taken up."""
        self.late_refused = 0
        """Animal-hours that were not replayed because too many were waiting."""

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
        return sum(book.nbytes for book in self._books())

    def _books(self) -> tuple[AnimalRows, ...]:
        return (self._ring, self._due, self._arrivals, self._rejects, self._bins)

    def reserve(self, animals_n: int) -> None:
        """Make room for that many animals at once (60 ms for 1000 by doubling from 64), if allowed."""
        capacity = self._capacity
        while capacity < min(animals_n, self._animals_max):
            capacity = min(2 * capacity, self._animals_max)
        if capacity > self._capacity:
            self._capacity = capacity
            for book in self._books():
                book.grow(capacity)

    def _row(self, cow_id: str) -> int | None:
        """Row of an animal, made if there is room; None beyond the bound."""
        row = self._row_of.get(cow_id)
        if row is not None:
            return row
        if len(self._names) >= self._animals_max:
            return None
        self.reserve(len(self._names) + 1)
        row = self._row_of[cow_id] = len(self._names)
        self._names.append(cow_id)
        return row

    # -- feeding ---------------------------------------------------------------------------------

    def feed(self, readings: Sequence[Reading]) -> None:
        """Take up committed readings: values, arrival, and the span that waits to be judged."""
        row_of = self._row_of
        found = [row_of.get(r.cow_id) for r in readings]
        if None in found:
            found = [self._row(r.cow_id) for r in readings]
            readings = [r for r, row in zip(readings, found, strict=True) if row is not None]
            self.animals_refused += len(found) - len(readings)
        if not readings:
            return
        rows = np.array([row for row in found if row is not None], np.int64)
        instants_ms = [r.timestamp_ms for r in readings]
        self._arrivals.arrived_all(rows, [r.received_s for r in readings], instants_ms)
        self._rejects.accepted(rows)
        timestamps_ms = np.array(instants_ms, np.int64)
        order = np.argsort(timestamps_ms, kind="stable")
        rows, timestamps_ms, values = rows[order], timestamps_ms[order], _values_of(readings)[order]
        opened = self._ring.write(rows, timestamps_ms, values)
        minutes = timestamps_ms // MS_PER_MINUTE
        self._bins.add_temperatures(rows, minutes // MINUTES_PER_HOUR, values[:, 0])
        self._add_motion(self._ring.motion_of(opened))
        self._add_motion(self._ring.motion_after(opened))
        self._mark(rows, minutes)

    def load_herd(self, cow_ids: Sequence[str], cow: Indices, timestamps_ms: Int64, values: Float64) -> None:
        """Take up stored readings of many animals: no arrivals, nothing to judge, nothing for the bins.

        The one thing they add to a bin is the motion of a minute that was fed before them and had
        to wait for the minute before it.

        Args:
            cow_ids: the animals; those without room are left out.
            cow: index into `cow_ids`, one a reading.
            timestamps_ms: UTC epoch ms, ascending for each animal, over several calls too.
            values: [n, 5]: temperature °C, three axes g, reported motion g (NaN = not sent).
        """
        rows, held = self._rows(cow_ids, cow)
        self._add_motion(self._ring.motion_after(self._ring.write(rows, timestamps_ms[held], values[held])))

    def load_bins(self, cow_ids: Sequence[str], cow: Indices, stored: StoredHours) -> None:
        """Add stored hours to the bins; every reading is told once, here or through `feed`.

        Args:
            cow_ids: the animals; those without room are left out.
            cow: index into `cow_ids`, one an hour.
            stored: the hours.
        """
        rows, held = self._rows(cow_ids, cow)
        self._bins.load(rows, stored.where(held))

    def _rows(self, cow_ids: Sequence[str], cow: Indices) -> tuple[Int64, Bools]:
        """Rows of the entries whose animals have room, and which entries these are."""
        row_of = np.array([-1 if (row := self._row(name)) is None else row for name in cow_ids], np.int64)
        rows = row_of[cow]
        held = rows >= 0
        return rows[held], held

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
        newest = int(self._ring.newest[row])
        at = minute if minute is not None else newest if newest >= 0 else now_minute
        self._rejects.refused(row, at, temperature_c, hot=hot)
        self._mark(np.array([row]), np.array([at]))

    def _add_motion(self, moved: Minutes) -> None:
        self._bins.add_motion(moved.rows, moved.minutes // MINUTES_PER_HOUR, moved.motion_g)

    # -- what waits to be judged -----------------------------------------------------------------

    def _mark(self, rows: Int64, minutes: Int64) -> None:
        """Widen the spans; what the ring cannot judge becomes an hour to replay."""
        late = minutes < self._ring.newest[rows] - (RING_MINUTES - 1 - LEAD_MINUTES)
        if late.any():
            for key in np.unique((rows[late] << 32) | (minutes[late] // MINUTES_PER_HOUR)).tolist():
                self.mark_late(self._names[key >> 32], key & 0xFFFFFFFF)
        self._due.widen(rows[~late], minutes[~late])

    def mark_late(self, cow_id: str, hour: int) -> None:
        """Note one hour of an animal for a replay from the store."""
        if len(self._late) >= LATE_HOURS_MAX and (cow_id, hour) not in self._late:
            self.late_refused += 1
            return
        self._late.add((cow_id, hour))

    def take_spans(self) -> Pending:
        """Answer and forget what waits to be judged."""
        live: list[Span] = []
        for row in np.flatnonzero(self._due.to_minute >= 0).tolist():
            from_minute, to_minute = int(self._due.from_minute[row]), int(self._due.to_minute[row])
            floor = int(self._ring.newest[row]) - (RING_MINUTES - 1 - LEAD_MINUTES)
            if from_minute < floor:  # the ring moved on since it was marked
                for hour in range(from_minute // MINUTES_PER_HOUR, floor // MINUTES_PER_HOUR + 1):
                    self.mark_late(self._names[row], hour)
            if to_minute >= floor:
                live.append(Span(self._names[row], max(from_minute, floor), to_minute))
        self._due.to_minute[:] = -1
        late = tuple(sorted(self._late, key=lambda item: (item[1], item[0])))
        self._late.clear()
        return Pending(tuple(live), late)

    def give_back(self, spans: Sequence[Span]) -> None:
        """Return spans that were not judged, or of which nobody knows; unknown animals are left out."""
        spans = [span for span in spans if span.cow_id in self._row_of]
        rows = np.array([self._row_of[span.cow_id] for span in spans], np.int64)
        self._mark(rows, np.array([span.from_minute for span in spans], np.int64))
        self._mark(rows, np.array([span.to_minute for span in spans], np.int64))

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
        minutes = np.concatenate([self._ring.stamps(rows), refused], axis=1)
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
        now = self._ring.newest_until(n, step_to)
        judge = np.zeros(n, np.bool_)
        if spans:
            rows = np.array([self._row_of[span.cow_id] for span in spans])
            low = np.maximum(np.array([span.from_minute for span in spans]), step_from_minute)[:, None]
            high = np.minimum(np.array([span.to_minute for span in spans]), step_to)[:, None]
            steps = np.arange(step_from_minute, step_to + 1)
            fresh = (self._ring.holds(rows, steps) & (steps >= low) & (steps <= high)).any(axis=1)
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
        grids, now_ms = self._ring.grids(rows, now, view_minutes)
        return HerdWindow(
            animals=tuple(self._names[row] for row in rows.tolist()),
            step_from_minute=step[0],
            step_to_minute=step[1],
            now_minute=now,
            now_ms=now_ms,
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
        rows = np.flatnonzero(self._ring.newest >= 0)
        newest = self._ring.newest[rows]
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
