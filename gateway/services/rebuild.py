"""Fills the windows from the store after a start, in a worker thread, while readings are fed already.

It reads one snapshot that was taken before the first reading was accepted: what is in it is loaded,
what comes later is fed, so the bins count every reading once whatever the order. The lock it shares
with the feeding is held for `ROWS_PER_HOLD` rows at a time.

Order: the last 8 h of the herd and the last hour of animals silent for longer, then the hourly bins
of 15 days, newest day first, then the alarm spans that baselines must not learn from.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from gateway.core.baselines import BINS, StoredHours
from gateway.core.detection import taints
from gateway.core.herd import Span
from gateway.core.instants import HOUR_MS, HOURS_PER_DAY, MINUTES_PER_HOUR, MS_PER_MINUTE, iso_utc
from gateway.core.ring import RING_MINUTES
from gateway.core.windows import ANIMALS_MAX, LEAD_MINUTES, Windows
from gateway.errors import StoreError
from gateway.store import alerts, herd
from gateway.store.database import Connection, Database
from gateway.store.rollups import hourly

logger = logging.getLogger(__name__)

ROWS_PER_HOLD = 4096
"""Rows loaded in one hold of the lock: about 2 ms of a core, below the 10 ms that it may be held."""
HERD_HOURS = 48
"""An animal heard within this of the newest reading has a say in where the herd's last 8 h are: the
middle of their last hours, so that a collar whose clock runs ahead moves nobody's window."""
SILENT_HOURS_MAX = RING_MINUTES
"""Different last hours of long silent animals that are read, newest first: 480 short reads."""
_COLUMNS = ("n", "temperature_mean_c", "motion_n", "motion_mean_g")


T = TypeVar("T")


class Rebuild:
    """One filling of the windows; made, in a worker thread, before the first reading is accepted.

    Making it takes hold of the store as it is, learns of its animals and makes room for them while
    nobody feeds yet, because that takes longer than a hold of the lock may.

    Args:
        database: the open store; one of its readers is in use until `run` ends or `close`.
        windows: what is filled.
        feeding: the lock of whoever feeds them.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(self, database: Database, windows: Windows, feeding: threading.Lock) -> None:
        self._windows = windows
        self._feeding = feeding
        self._held = database.hold_now()
        try:
            self._last_hours = self._held.read_now(lambda db: herd.last_hours(db, ANIMALS_MAX))
            self._horizon = self._held.read_now(herd.horizon_hour)
        except StoreError:
            self._held.close()
            raise
        with feeding:
            windows.reserve(len(self._last_hours))
        self.unread_n = 0
        """Pieces (an hour of the herd, a day of bins) that could not be read."""

    def run(self) -> None:
        """Fill the windows, once.

        Raises:
            StoreError: the alerts cannot be read, or `close` was called.
        """
        started_s = time.perf_counter()
        try:
            if not self._last_hours:
                return
            herd_hour, last_hour = _herd_hour(list(self._last_hours.values()), self._horizon)
            readings_n = self._fill_ring(herd_hour, last_hour)
            first_hour = herd_hour - BINS + 1
            hours_n = self._fill_bins(first_hour, last_hour)
            self._taint(first_hour)
        finally:
            self._held.close()
        logger.info(
            "Windows rebuilt from the store: %d animals, %d readings, %d animal-hours, %.1f s",
            len(self._windows),
            readings_n,
            hours_n,
            time.perf_counter() - started_s,
        )

    def close(self) -> None:
        """Let go of the store; a `run` in another thread ends with a StoreError."""
        self._held.close()

    def _fill_ring(self, herd_hour: int, last_hour: int) -> int:
        first_hour = herd_hour - RING_MINUTES // MINUTES_PER_HOUR
        newest: dict[str, int] = {}
        readings_n = 0
        for hour in range(first_hour, last_hour + 1):
            readings_n += self._load(range(hour, hour + 1), None, newest)
        # Animals last heard of before that, or dated ahead of us: dead collars, wrong clocks.
        silent: dict[int, list[str]] = defaultdict(list)
        for cow_id, hour in self._last_hours.items():
            if hour < first_hour or hour > last_hour:
                silent[hour].append(cow_id)
        for hour in sorted(silent)[-SILENT_HOURS_MAX:]:
            readings_n += self._load(range(hour - 1, hour + 1), silent[hour], newest)
        spans = [Span(cow_id, minute - LEAD_MINUTES, minute) for cow_id, minute in newest.items()]
        with self._feeding:
            self._windows.give_back(spans)
        return readings_n

    def _load(self, hours: range, cow_ids: Sequence[str] | None, newest: dict[str, int]) -> int:
        """Readings of some hours into the rings; notes the newest minute of each animal."""
        table = self._read(
            lambda db: herd.herd_table(db, hours.start * HOUR_MS, hours.stop * HOUR_MS, cow_ids), hours
        )
        if table is None:
            return 0
        last_ms = np.zeros(len(table.cow_ids), np.int64)
        np.maximum.at(last_ms, table.cow, table.timestamp_ms)
        newest.update(zip(table.cow_ids, (last_ms // MS_PER_MINUTE).tolist(), strict=True))
        for part in _parts(len(table.cow)):
            with self._feeding:
                self._windows.load_herd(
                    table.cow_ids, table.cow[part], table.timestamp_ms[part], table.values[part]
                )
        return len(table.cow)

    def _fill_bins(self, first_hour: int, last_hour: int) -> int:
        hours_n = 0
        to_hour = last_hour + 1
        while to_hour > first_hour:
            # Whole UTC days, as the store keeps them.
            from_hour = max(first_hour, (to_hour - 1) // HOURS_PER_DAY * HOURS_PER_DAY)
            hours_n += self._load_bins(range(from_hour, to_hour))
            to_hour = from_hour
        return hours_n

    def _load_bins(self, hours: range) -> int:
        table = self._read(lambda db: hourly(db, hours.start, hours.stop, _COLUMNS), hours)
        if table is None:
            return 0
        stored_hours = StoredHours(table.hour, *(table.values[name] for name in _COLUMNS))
        for part in _parts(len(table.cow)):
            with self._feeding:
                self._windows.load_bins(table.cow_ids, table.cow[part], stored_hours.where(part))
        return len(table.cow)

    def _read(self, work: Callable[[Connection], T], hours: range) -> T | None:
        """A piece of the store; None if it is damaged: half a memory watches better than none."""
        try:
            return self._held.read_now(work)
        except StoreError as error:
            if self._held.closed:
                raise
            self.unread_n += 1
            logger.error(  # noqa: TRY400 - a fault of the card, no bug
                "Detectors start without %s to %s: %s",
                iso_utc(hours.start * HOUR_MS),
                iso_utc(hours.stop * HOUR_MS),
                error,
            )
            return None

    def _taint(self, first_hour: int) -> None:
        """Alarm spans of the last 15 days, in data time: from onset to the last judgement."""
        episodes = self._held.read_now(lambda db: alerts.seen_since(db, first_hour * HOUR_MS))
        with self._feeding:
            for alert in episodes:
                if taints(alert.kind, alert.detail):
                    self._windows.taint(
                        alert.subject, alert.onset_ms // MS_PER_MINUTE, alert.last_seen_ms // MS_PER_MINUTE
                    )


def _parts(rows_n: int) -> Iterator[slice]:
    for start in range(0, rows_n, ROWS_PER_HOLD):
        yield slice(start, start + ROWS_PER_HOLD)


def _herd_hour(last_hours: Sequence[int], horizon: int) -> tuple[int, int]:
    """The middle of the last hours of all animals heard lately, and the newest of them.

    Hours beyond the horizon come from collars with a wrong clock; unless all are, which means that
    our own was wrong.
    """
    hours = np.array([hour for hour in last_hours if hour <= horizon] or last_hours)
    newest = int(hours.max())
    return int(np.median(hours[hours > newest - HERD_HOURS])), newest
