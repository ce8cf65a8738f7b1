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
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from gateway.core.baselines import BINS, HOURS_PER_DAY, MINUTES_PER_HOUR, StoredHours
from gateway.core.detection import taints
from gateway.core.herd import MS_PER_MINUTE
from gateway.core.readings import Reading
from gateway.core.ring import RING_MINUTES
from gateway.core.windows import ANIMALS_MAX, LEAD_MINUTES, Windows
from gateway.store import alerts
from gateway.store import readings as stored
from gateway.store.database import Snapshot
from gateway.store.rollups import hourly

logger = logging.getLogger(__name__)

ROWS_PER_HOLD = 4096
"""Rows loaded between two looks of the event loop: about 3 ms of a core, below the 10 ms that the
lock may be held."""
HERD_HOURS = 48
"""An animal heard within this of the newest reading has a say in where the herd's last 8 h are: the
middle of their last hours, so that a collar whose clock runs ahead moves nobody's window."""
SILENT_HOURS_MAX = RING_MINUTES
"""Different last hours of long silent animals that are read, newest first: 480 short reads."""
HOUR_MS = MINUTES_PER_HOUR * MS_PER_MINUTE
_COLUMNS = ("n", "temperature_mean_c", "motion_n", "motion_mean_g")

Int64 = npt.NDArray[np.int64]


class Rebuild:
    """One filling of the windows.

    Args:
        held: the store as it was before the first reading was accepted; closed by `run`.
        windows: what is filled.
        feeding: the lock of whoever feeds them.
    """

    def __init__(self, held: Snapshot, windows: Windows, feeding: threading.Lock) -> None:
        self._held = held
        self._windows = windows
        self._feeding = feeding

    def run(self) -> None:
        """Fill the windows, once.

        Raises:
            StoreError: the store cannot be read, or `close` was called.
        """
        started_s = time.perf_counter()
        try:
            newest = self._held.read_now(partial(stored.latest, limit=ANIMALS_MAX))
            if not newest:
                return
            last_hour = newest[0].timestamp_ms // HOUR_MS
            herd_hour = _herd_hour(newest)
            readings_n = self._fill_ring(newest, herd_hour, last_hour)
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

    def _fill_ring(self, newest: Sequence[Reading], herd_hour: int, last_hour: int) -> int:
        pending_from = {r.cow_id: r.timestamp_ms // MS_PER_MINUTE - LEAD_MINUTES for r in newest}
        first_hour = herd_hour - RING_MINUTES // MINUTES_PER_HOUR
        readings_n = 0
        for hour in range(first_hour, last_hour + 1):
            readings_n += self._load(hour, hour + 1, None, pending_from)
        # Animals that were last heard of before that: dead collars, test messages of other years.
        silent: dict[int, list[str]] = defaultdict(list)
        for reading in newest:
            if reading.timestamp_ms < first_hour * HOUR_MS:
                silent[reading.timestamp_ms // HOUR_MS].append(reading.cow_id)
        for hour in sorted(silent)[-SILENT_HOURS_MAX:]:
            readings_n += self._load(hour - 1, hour + 1, silent[hour], pending_from)
        return readings_n

    def _load(
        self, from_hour: int, to_hour: int, cow_ids: Sequence[str] | None, pending_from: dict[str, int]
    ) -> int:
        from_ms, to_ms = from_hour * HOUR_MS, to_hour * HOUR_MS
        table = self._held.read_now(lambda db: stored.herd_table(db, from_ms, to_ms, cow_ids))
        # An animal beyond ANIMALS_MAX is in no list and has no row either.
        pending = np.array([pending_from.get(cow_id, np.iinfo(np.int64).max) for cow_id in table.cow_ids])
        for start in range(0, len(table.cow), ROWS_PER_HOLD):
            part = slice(start, start + ROWS_PER_HOLD)
            with self._feeding:
                self._windows.load_herd(
                    table.cow_ids,
                    table.cow[part],
                    table.timestamp_ms[part],
                    table.values[part],
                    pending_from_minute=pending,
                )
        return len(table.cow)

    def _fill_bins(self, first_hour: int, last_hour: int) -> int:
        hours_n = 0
        to_hour = last_hour + 1
        while to_hour > first_hour:
            # Whole UTC days, as the store keeps them.
            from_hour = max(first_hour, (to_hour - 1) // HOURS_PER_DAY * HOURS_PER_DAY)
            table = self._held.read_now(
                partial(hourly, from_hour=from_hour, to_hour=to_hour, columns=_COLUMNS)
            )
            hours = StoredHours(table.hour, *(table.values[name] for name in _COLUMNS))
            for start in range(0, len(table.cow), ROWS_PER_HOLD):
                part = slice(start, start + ROWS_PER_HOLD)
                with self._feeding:
                    self._windows.load_bins(table.cow_ids, table.cow[part], hours.where(part))
            hours_n += len(table.cow)
            to_hour = from_hour
        return hours_n

    def _taint(self, first_hour: int) -> None:
        """Alarm spans of the last 15 days, in data time: from onset to the last judgement."""
        episodes = self._held.read_now(lambda db: alerts.seen_since(db, first_hour * HOUR_MS))
        with self._feeding:
            for alert in episodes:
                if taints(alert.kind, alert.detail):
                    self._windows.taint(
                        alert.subject, alert.onset_ms // MS_PER_MINUTE, alert.last_seen_ms // MS_PER_MINUTE
                    )


def _herd_hour(newest: Sequence[Reading]) -> int:
    """The middle of the last hours of all animals heard lately; `newest` is newest first."""
    hours = np.array([reading.timestamp_ms // HOUR_MS for reading in newest])
    return int(np.median(hours[hours > hours[0] - HERD_HOURS]))
