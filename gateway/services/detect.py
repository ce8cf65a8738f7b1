"""When detectors look and at what: fed on the event loop, judging in a worker thread.

Everything is judged in data time (decision 5): readings mark the minutes they belong to, and a
run walks these minutes step by step, so that a backlog after an outage is judged as if it had
come in time. What the ring no longer holds is replayed from the store through windows of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.core.baselines import MINUTES_PER_HOUR, Baselines
from gateway.core.detection import Detector, Policies, detectors_of, gate, taints_baseline
from gateway.core.findings import Finding
from gateway.core.herd import MS_PER_MINUTE, HerdWindow, Span
from gateway.core.messages import Reason, Rejection
from gateway.core.readings import Reading
from gateway.core.severity import Severity
from gateway.core.windows import ANIMALS_MAX, RING_MINUTES, Windows
from gateway.ports import Clock
from gateway.store import readings as stored
from gateway.store.database import Database

log = logging.getLogger(__name__)

STEP_MINUTES: Final = 2
"""One step of data time: the interval of document 0's immediate detection."""
LATE_HOURS_A_RUN: Final = 240
"""Animal-hours replayed from the store in one run: about 10 ms each, so some 2.4 s of the worker
thread every 2 min, far below 20 % of a core. The rest waits for the next run."""
REJUDGE_MINUTES: Final = 10
"""After a restart nobody knows whether the newest minutes were judged: five steps are judged again."""
HISTORY_DAYS: Final = 15
"""Baselines look back 14 days from the day before."""
HOT_C: Final = (42.0, 44.0)
"""Rejected temperatures that may be a fever (decision 4)."""
_HOUR_MS: Final = 3_600_000
_SENSOR_FAULTS: Final = frozenset(
    {
        Reason.MISSING_FIELD,
        Reason.BAD_TYPE,
        Reason.TEMPERATURE_OUT_OF_RANGE,
        Reason.ACCELERATION_OUT_OF_RANGE,
    }
)
"""Rejections that speak against the sensor; a wrong clock or a foreign topic does not."""


class Detect:
    """Runs the detectors over the windows and reports what they find.

    Args:
        clock: the gateway's clock; silence is judged on its monotonic time.
        windows: the herd in memory.
        database: history for the start and for late readings.
        policies: every detector's thresholds.
        report: takes the findings of a run, in order of data time.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        windows: Windows,
        database: Database,
        policies: Policies,
        report: Callable[[list[Finding]], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._windows = windows
        self._database = database
        self._policies = policies
        self._report = report
        self._lock = threading.Lock()  # windows: the loop feeds, the worker copies out
        self._one_run = asyncio.Lock()
        self._troubles: frozenset[tuple[str, str, Severity]] = frozenset()
        self.rebuilding = False
        self.failures: dict[str, int] = {}
        """Detector → how often it raised."""

    def committed(self, readings: Sequence[Reading]) -> None:
        """Take up newly stored readings; on the loop, after their commit."""
        with self._lock:
            self._windows.feed(readings)

    def rejected(self, rejection: Rejection, received_s: float) -> None:
        """Take up a rejected message: it may speak of a broken sensor, or of a high fever."""
        if rejection.cow_id is None:
            return
        temperature_c = rejection.temperature_c
        hot = temperature_c is not None and HOT_C[0] < temperature_c <= HOT_C[1]
        minute = None if rejection.timestamp_ms is None else rejection.timestamp_ms // MS_PER_MINUTE
        with self._lock:
            self._windows.reject(
                rejection.cow_id,
                minute,
                self._clock.now_ms() // MS_PER_MINUTE,
                received_s,
                fault=rejection.reason in _SENSOR_FAULTS,
                temperature_c=temperature_c,
                hot=hot,
            )

    async def run(self, job: str) -> list[Finding]:
        """One run of a job's detectors over everything nobody has judged yet.

        Returns:
            the findings, in order of data time, after `report` has taken them.
        """
        async with self._one_run:
            began_s = time.monotonic()
            findings = await asyncio.to_thread(self._judge, job)
            await self._report(findings)
            took_ms = (time.monotonic() - began_s) * 1000
        troubles = frozenset((f.subject, f.kind, f.severity) for f in findings if f.present)
        level = logging.DEBUG if troubles == self._troubles else logging.INFO
        self._troubles = troubles
        log.log(
            level,
            "Detector run %s: animals=%d, troubles=%d, took=%.0f ms",
            job,
            len(self._windows),
            len(troubles),
            took_ms,
        )
        return findings

    # Judging, in the worker thread -------------------------------------------------------------

    def _judge(self, job: str) -> list[Finding]:
        detectors = detectors_of(job)
        by_data = tuple(detector for detector in detectors if detector.basis == "data")
        now_s = self._clock.monotonic_s()
        with self._lock:
            pending = self._windows.take_spans()
        findings = self._replay_late(by_data, pending.late, now_s)
        findings += self._walk(by_data, self._windows, pending.live, now_s)
        for detector in detectors:
            if detector.basis == "arrival":
                with self._lock:
                    window = self._windows.look(now_s)
                    baselines = self._windows.baselines(window)
                findings += self._guarded(detector, window, baselines)
        return findings

    def _walk(
        self, detectors: Sequence[Detector], windows: Windows, spans: Sequence[Span], now_s: float
    ) -> list[Finding]:
        """Every step of data time that holds something new, oldest first."""
        findings: list[Finding] = []
        with self._lock:
            steps = windows.steps(spans, STEP_MINUTES)
        for step in steps:
            with self._lock:
                window = windows.view(spans, step, STEP_MINUTES, now_s)
                baselines = windows.baselines(window)
            found: list[Finding] = []
            for detector in detectors:
                found += self._guarded(detector, gate(window, found), baselines)
            with self._lock:
                for finding in filter(taints_baseline, found):
                    windows.taint(
                        finding.subject, finding.onset_ms // MS_PER_MINUTE, finding.at_ms // MS_PER_MINUTE
                    )
            findings += found
        return findings

    def _replay_late(
        self, detectors: Sequence[Detector], late: Sequence[tuple[str, int]], now_s: float
    ) -> list[Finding]:
        """Hours older than the ring, from the store, one animal's run of hours at a time."""
        with self._lock:
            for cow_id, hour in late[LATE_HOURS_A_RUN:]:
                self._windows.mark_late(cow_id, hour)
        findings: list[Finding] = []
        for cow_id, first_hour, last_hour in _runs_of_hours(late[:LATE_HOURS_A_RUN]):
            windows = Windows(animals_max=1)
            for hour in range(first_hour, last_hour + 1):
                findings += self._replay_hour(detectors, windows, cow_id, hour, now_s)
        return findings

    def _replay_hour(
        self, detectors: Sequence[Detector], windows: Windows, cow_id: str, hour: int, now_s: float
    ) -> list[Finding]:
        """One hour, with the ring's length of history in front of it."""
        series = self._history(cow_id, (hour + 1) * _HOUR_MS)
        windows.load(cow_id, series.timestamp_ms, _values(series))
        first = hour * MINUTES_PER_HOUR
        span = Span(cow_id, first, first + MINUTES_PER_HOUR - 1)
        return self._walk(detectors, windows, (span,), now_s)

    def _guarded(self, detector: Detector, window: HerdWindow, baselines: Baselines) -> list[Finding]:
        """Ask one detector; its bug becomes a system alert, and the others go on."""
        try:
            return detector.detect(window, baselines, getattr(self._policies, detector.name))
        except Exception as error:  # DESIGN, failure policy: around a single detector
            self.failures[detector.name] = self.failures.get(detector.name, 0) + 1
            log.exception("Detector %s failed", detector.name)
            now_ms = self._clock.now_ms()
            return [
                Finding(
                    subject="gateway",
                    kind="detector_failure",
                    present=True,
                    severity=Severity.WARNING,
                    at_ms=now_ms,
                    onset_ms=now_ms,
                    confidence=1.0,
                    sentence=f"detector {detector.name} failed: {type(error).__name__}; the log says where",
                    detail=detector.name,
                )
            ]

    # Start -------------------------------------------------------------------------------------

    async def rebuild(self) -> None:
        """Windows and baselines from the store; readings may be fed meanwhile."""
        self.rebuilding = True
        try:
            await asyncio.to_thread(self._rebuild)
        finally:
            self.rebuilding = False

    def _rebuild(self) -> None:
        newest = self._database.read_now(lambda db: stored.latest(db, ANIMALS_MAX))
        if not newest:
            return
        last_arrival_ms = max(reading.received_ms for reading in newest)
        for reading in newest:
            # A collar with an old date counts too: its last hours, wherever they lie.
            recent = last_arrival_ms - reading.received_ms <= REJUDGE_MINUTES * MS_PER_MINUTE
            series = self._history(reading.cow_id, reading.timestamp_ms + 1)
            with self._lock:
                self._windows.load(
                    reading.cow_id,
                    series.timestamp_ms,
                    _values(series),
                    pending_minutes=REJUDGE_MINUTES if recent else 0,
                )
        last_hour = max(reading.timestamp_ms for reading in newest) // _HOUR_MS
        for hour in range(last_hour - HISTORY_DAYS * 24, last_hour + 1, 24):
            self._load_day(hour)

    def _history(self, cow_id: str, to_ms: int) -> stored.Series:
        """The ring's length of one animal's readings before an instant."""
        from_ms = to_ms - (RING_MINUTES - 1) * MS_PER_MINUTE
        return self._database.read_now(lambda db: stored.history(db, cow_id, from_ms, to_ms))

    def _load_day(self, first_hour: int) -> None:
        """Hourly means of one day, all animals in one pass."""
        from_ms, to_ms = first_hour * _HOUR_MS, (first_hour + 24) * _HOUR_MS
        day = self._database.read_now(lambda db: stored.herd_history(db, from_ms, to_ms))
        for cow_id, series in day.items():
            with self._lock:
                self._windows.load_hours(cow_id, series.timestamp_ms, series.temperature_c.astype(np.float64))


def _values(series: stored.Series) -> npt.NDArray[np.float64]:
    """[n, 5]: temperature °C, three axes g, the collar's own motion."""
    columns = (series.temperature_c, series.fxa_g, series.mya_g, series.rza_g, series.motion_g)
    return np.stack(columns, axis=1).astype(np.float64)


def _runs_of_hours(late: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """(animal, hour) pairs → (animal, first hour, last hour) of unbroken runs, oldest first."""
    runs: list[tuple[str, int, int]] = []
    for cow_id, hour in sorted(late):
        if runs and runs[-1][0] == cow_id and runs[-1][2] == hour - 1:
            runs[-1] = (cow_id, runs[-1][1], hour)
        else:
            runs.append((cow_id, hour, hour))
    return sorted(runs, key=lambda run: run[1])
