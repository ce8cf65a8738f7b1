"""Detector runs: which steps of data time are due, and who judges them (decisions 4–6, 44).

`committed` and `rejected` are called on the event loop, `run` is started there by services/jobs.
What was committed is gathered, and taken into the windows before anybody looks at them. Numpy and
the store are used in worker threads. A lock keeps the windows' one writer (the loop) and their
reader apart; it is held for the copying of a view at most (about 6 ms per 1000 animals).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

from gateway.core.baselines import Baselines
from gateway.core.detection import Detector, Policies, detectors_of, gate, taints_baseline
from gateway.core.findings import Finding
from gateway.core.herd import VIEW_MINUTES, HerdWindow, Pending, Span
from gateway.core.instants import HOUR_MS, MINUTES_PER_HOUR, MS_PER_MINUTE
from gateway.core.messages import Rejection
from gateway.core.readings import Reading
from gateway.core.refusals import weigh
from gateway.core.severity import Severity
from gateway.core.windows import ANIMALS_MAX, Windows
from gateway.ports import Clock
from gateway.services.rebuild import Rebuild
from gateway.store import herd
from gateway.store.database import Database

logger = logging.getLogger(__name__)

GATHERED_MAX = 1024
"""Committed readings that wait to be taken into the windows together. Nobody reads these between two
runs, and a reading costs 1 µs among a thousand, 9 µs among twenty (a commit of a small herd). At about
300 B each they are 0.3 MB, beside the last commit's; taking them in holds the loop for about 1 ms."""
STEPS_PER_RUN_MAX = 960
"""Live steps a run judges; the ring holds 240 steps of 2 min, so this is four herds whose clocks
agree on nothing. About 15 s of a core at 1000 animals; the rest is carried over to the next run."""
LATE_HOURS_PER_RUN = 12
"""Hours older than the ring that a run replays from the store: 16 passes over an hour of the herd,
about 4 s of a core at 1000 animals, 3 % of the 2 min between runs; a day of backlog takes two."""

_State = frozenset[tuple[str, str, Severity]]


class Detect:
    """Judges what was committed since the last run, step by step, and reports what it finds.

    Args:
        clock: wall time for dates, monotonic time for silence.
        windows: the herd in memory; nobody else touches it.
        database: where older hours are read from.
        policies: thresholds of all detectors.
        report: takes the findings of a run, in the order of the steps.
        step_minutes: the detector's own interval in data time.
        detectors: the detectors of a job.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        windows: Windows,
        database: Database,
        policies: Policies,
        report: Callable[[list[Finding]], Awaitable[object]],
        step_minutes: int = 2,
        detectors: Callable[[str], Sequence[Detector]] = detectors_of,
    ) -> None:
        self._clock = clock
        self._windows = windows
        self._database = database
        self._policies = policies
        self._report = report
        self._step_minutes = step_minutes
        self._detectors = detectors
        self._feeding = threading.Lock()
        self._gathered: list[Reading] = []
        self._gathered_max = GATHERED_MAX
        self._running = asyncio.Lock()
        self._failed: dict[str, str] = {}
        self._was_failing = True  # unknown after a start: one normal judgement clears an old alert
        self._last: _State | None = None
        self._rebuild: Rebuild | None = None
        self.counters: Counter[str] = Counter()
        """runs, steps, late_hours, carried_over, failures, unread (pieces of a rebuild): for /metrics."""

    # -- on the loop -----------------------------------------------------------------------------

    def committed(self, readings: Sequence[Reading]) -> None:
        """Newly stored readings, in the order they arrived."""
        self._gathered += readings
        if len(self._gathered) >= self._gathered_max:
            self.feed()

    def feed(self) -> None:
        """Take what was committed so far into the windows; every run begins with it."""
        readings, self._gathered = self._gathered, []
        if readings:
            with self._feeding:
                self._windows.feed(readings)

    def rejected(self, rejection: Rejection, received_s: float) -> None:
        """A refused message: its animal has been heard, and it may speak against the sensor."""
        now_minute = self._clock.now_ms() // MS_PER_MINUTE
        refusal = weigh(rejection, now_minute)
        if refusal is None:
            return
        self.feed()  # the last ten messages of an animal are told in their order
        with self._feeding:
            self._windows.reject(
                refusal.cow_id,
                refusal.minute,
                now_minute,
                received_s,
                fault=refusal.fault,
                temperature_c=refusal.temperature_c,
                hot=refusal.hot,
            )

    async def begin(self) -> Rebuild:
        """Take hold of the store as it is; to be awaited before the first reading is accepted.

        What is in it is loaded by `rebuild`, what comes later is fed: every reading counts once.

        Raises:
            StoreError: the store cannot be read.
        """
        self._gathered_max = 1  # a rebuild tells what is late by what has come since
        self._rebuild = await asyncio.to_thread(Rebuild, self._database, self._windows, self._feeding)
        return self._rebuild

    async def rebuild(self) -> None:
        """Fill the windows from what `begin` took hold of, while readings are fed already.

        The last hour of each animal is judged again, because nobody knows whether it was; the
        alert law passes over what it has heard before. What cannot be read is told in the log and
        counted, and the rest is loaded.

        Raises:
            StoreError: nothing can be read, or `close` was called.
        """
        rebuild = self._rebuild or await self.begin()
        try:
            await asyncio.to_thread(rebuild.run)
        finally:
            self._gathered_max = GATHERED_MAX
        self.counters["unread"] += rebuild.unread_n

    def close(self) -> None:
        """Let go of the store; a rebuild that runs ends within a piece (about 0.1 s)."""
        if self._rebuild is not None:
            self._rebuild.close()

    async def run(self, job: str) -> list[Finding]:
        """One detector run: live steps and silence first, then older hours from the store.

        Raises:
            StoreError: the store cannot be read; what was to be replayed stays due.
        """
        detectors = self._detectors(job)
        if not detectors:
            logger.debug("Detector run %s: no detectors yet", job)
            return []
        async with self._running:
            started_s = time.perf_counter()
            self.feed()
            with self._feeding:
                pending = self._windows.take_spans()
            findings = await asyncio.to_thread(self._judge_live, detectors, pending)
            if findings:
                await self._report(findings)
            late = await asyncio.to_thread(self._judge_late, detectors, pending.late)
            late += self._own_health()
            if late:
                await self._report(late)
            findings += late
            self.counters["runs"] += 1
            self._tell(job, findings, time.perf_counter() - started_s)
            return findings

    def _tell(self, job: str, findings: Sequence[Finding], took_s: float) -> None:
        """One line a run (S0-094): INFO when the outcome differs from the run before, else DEBUG."""
        latest = {(finding.subject, finding.kind): finding for finding in findings}
        present = [finding for finding in latest.values() if finding.present]
        state: _State = frozenset((f.subject, f.kind, f.severity) for f in present)
        level = logging.DEBUG if state == self._last else logging.INFO
        self._last = state
        names = ", ".join(f"{f.subject} {f.kind} {f.severity.label}" for f in present[:5])
        more = f" and {len(present) - 5} more" if len(present) > 5 else ""
        logger.log(
            level,
            "Detector run %s: %d animals, %d findings%s, %.0f ms",
            job,
            len(self._windows),
            len(present),
            f" ({names}{more})" if present else "",
            took_s * 1000,
        )

    # -- in a worker thread ----------------------------------------------------------------------

    def _judge_live(self, detectors: Sequence[Detector], pending: Pending) -> list[Finding]:
        findings: list[Finding] = []
        with self._feeding:
            steps = self._windows.steps(pending.live, self._step_minutes)
        if len(steps) > STEPS_PER_RUN_MAX:
            from_minute = steps[STEPS_PER_RUN_MAX]
            steps = steps[:STEPS_PER_RUN_MAX]
            rest = [
                Span(span.cow_id, max(span.from_minute, from_minute), span.to_minute)
                for span in pending.live
                if span.to_minute >= from_minute
            ]
            self.counters["carried_over"] += len(rest)
            with self._feeding:
                self._windows.give_back(rest)
        now_s = self._clock.monotonic_s()
        for step in steps:
            with self._feeding:
                window = self._windows.view(pending.live, step, self._step_minutes, now_s)
                baselines = self._windows.baselines(window)
            findings += self._judge(detectors, window, baselines)
        self.counters["steps"] += len(steps)
        arrival = [detector for detector in detectors if detector.basis == "arrival"]
        if arrival:
            with self._feeding:
                window = self._windows.look(now_s)
                baselines = self._windows.baselines(window)
            for detector in arrival:
                findings += self._guarded(detector, window, baselines)
        return findings

    def _judge(
        self, detectors: Sequence[Detector], window: HerdWindow, baselines: Baselines
    ) -> list[Finding]:
        """All data-time detectors over one step, each gated by what the earlier ones found."""
        findings: list[Finding] = []
        for detector in detectors:
            if detector.basis == "data":
                findings += self._guarded(detector, gate(window, findings), baselines)
        for finding in findings:
            if taints_baseline(finding):
                with self._feeding:
                    self._windows.taint(
                        finding.subject, finding.onset_ms // MS_PER_MINUTE, finding.at_ms // MS_PER_MINUTE
                    )
        return findings

    def _guarded(self, detector: Detector, window: HerdWindow, baselines: Baselines) -> list[Finding]:
        """A bug in one detector becomes a finding about the gateway; the others go on."""
        try:
            return detector.detect(window, baselines, getattr(self._policies, detector.name))
        except Exception as error:
            self.counters["failures"] += 1
            if detector.name not in self._failed:
                logger.exception("Detector %s failed", detector.name)
            self._failed[detector.name] = f"{type(error).__name__}: {error}"
            return []

    def _own_health(self) -> list[Finding]:
        """What the run says about the detectors themselves."""
        failed, self._failed = self._failed, {}
        was_failing, self._was_failing = self._was_failing, bool(failed)
        if not failed and not was_failing:
            return []
        now_ms = self._clock.now_ms()
        causes = "; ".join(f"{name} ({cause[:200]})" for name, cause in sorted(failed.items()))
        return [
            Finding(
                subject="gateway",
                kind="detector_failure",
                present=bool(failed),
                severity=Severity.WARNING if failed else Severity.INFO,
                at_ms=now_ms,
                onset_ms=now_ms,
                confidence=1.0,
                sentence=f"detectors failed and judge nothing: {causes}; see the log"
                if failed
                else "all detectors run",
                detail=",".join(sorted(failed)),
            )
        ]

    def _judge_late(self, detectors: Sequence[Detector], late: Sequence[tuple[str, int]]) -> list[Finding]:
        """Hours older than the ring: replayed from the store in windows of their own.

        The whole herd of such an hour is read, so that herd context is there; baselines come from
        the live bins. The live windows are never moved. The newest hours come first, so that one
        collar with scattered old dates keeps nobody's last night waiting.
        """
        findings: list[Finding] = []
        done = 0
        hour_before: int | None = None
        private = Windows(ANIMALS_MAX)
        groups = [(hour, [cow for cow, _ in pairs]) for hour, pairs in groupby(late, key=lambda p: p[1])]
        rest, now = groups[:-LATE_HOURS_PER_RUN], groups[-LATE_HOURS_PER_RUN:]
        try:
            for hour, cows in now:
                first = hour
                if hour_before != hour - 1:
                    private = Windows(ANIMALS_MAX)
                    first = hour - VIEW_MINUTES // MINUTES_PER_HOUR
                for wanted in range(first, hour + 1):
                    self._load_hour(private, wanted)
                hour_before = hour
                findings += self._judge_hour(detectors, private, hour, cows)
                done += 1
        finally:
            self.counters["late_hours"] += done
            later = rest + now[done:]
            self.counters["carried_over"] += sum(len(cows) for _, cows in later)
            with self._feeding:
                for hour, cows in later:
                    for cow_id in cows:
                        self._windows.mark_late(cow_id, hour)
        return findings

    def _judge_hour(
        self, detectors: Sequence[Detector], private: Windows, hour: int, cows: Sequence[str]
    ) -> list[Finding]:
        start = hour * MINUTES_PER_HOUR
        spans = [Span(cow, start, start + MINUTES_PER_HOUR - 1) for cow in cows if cow in private]
        findings: list[Finding] = []
        for step in private.steps(spans, self._step_minutes):
            window = private.view(spans, step, self._step_minutes, self._clock.monotonic_s())
            with self._feeding:
                baselines = self._windows.baselines(window)
            findings += self._judge(detectors, window, baselines)
        return findings

    def _load_hour(self, windows: Windows, hour: int) -> None:
        # Only animals with a row in the live windows: theirs are the baselines.
        animals = self._windows.animals
        table = self._database.read_now(
            lambda db: herd.herd_table(db, hour * HOUR_MS, (hour + 1) * HOUR_MS, animals)
        )
        windows.load_herd(table.cow_ids, table.cow, table.timestamp_ms, table.values)
