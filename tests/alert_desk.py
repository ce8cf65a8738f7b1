"""A store and an alarm that people act on, for the tests of everything they act by."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from gateway.core.alerts import Alert, AlertPolicy
from gateway.core.findings import Evidence, Finding
from gateway.core.severity import Severity
from gateway.core.silences import Silence
from gateway.services.alarm import Alarm
from gateway.store import alerts as alert_rows
from gateway.store.alerts import Transition
from gateway.store.database import Database

T0_MS = 1_764_081_000_000  # 2025-11-25T14:30:00Z


class StillClock:
    """Stands where the test puts it."""

    def __init__(self) -> None:
        self.ms = T0_MS
        self.sure = True

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000

    def trusted(self) -> bool:
        return self.sure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.ms += round(seconds * 1000)


class Desk(Alarm):
    """The alarm, with silences as far as people can tell."""

    def __init__(self, clock: StillClock, database: Database) -> None:
        super().__init__(
            clock=clock,
            database=database,
            policy=AlertPolicy(),
            signal_changed=lambda _: None,
            published=self.told,
        )
        self.heard: list[Alert] = []
        self.held: list[Silence] = []

    def told(self, alert: Alert) -> None:
        self.heard.append(alert)

    @property
    def silences(self) -> tuple[Silence, ...]:
        return tuple(self.held)

    async def silence(
        self, *, subject: str | None, kind: str | None, until_ms: int, who: str, origin: str, reason: str
    ) -> Silence:
        made = Silence(len(self.held) + 1, subject, kind, self._clock.now_ms(), until_ms, who, origin, reason)
        self.held.append(made)
        return made

    async def end_silence(self, *, silence_id: int, who: str, origin: str) -> bool:
        left = [one for one in self.held if one.id != silence_id]
        ended = len(left) < len(self.held)
        self.held = left
        return ended


class Barn:
    """Clock, store and alarm."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = StillClock()
        self.database = Database.open(path, timeout_s=0.05)
        self.alarm = Desk(self.clock, self.database)

    async def raise_alert(self, subject: str = "COW_7", kind: str = "fever", **fields: object) -> int:
        """A new critical alert; its number."""
        finding = Finding(
            subject=subject,
            kind=kind,
            severity=Severity.CRITICAL,
            present=True,
            onset_ms=T0_MS - 60_000,
            at_ms=T0_MS,
            confidence=0.9,
            sentence=str(fields.get("sentence", "41.0 °C, 2.4 °C above usual")),
            evidence=Evidence(value=41.0, unit="°C"),
        )
        await self.alarm.report([finding])
        return self.database.read_now(lambda db: alert_rows.recent(db, subject, 1))[0].id

    def alert(self, alert_id: int) -> Alert:
        rows = self.database.read_now(lambda db: alert_rows.recent(db, None, 1000))
        return next(row for row in rows if row.id == alert_id)

    def history(self, alert_id: int) -> list[Transition]:
        return self.database.read_now(lambda db: alert_rows.history(db, alert_id))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Another program holds the write lock, so that the store refuses to write."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


@contextlib.asynccontextmanager
async def barn(tmp_path: Path) -> AsyncIterator[Barn]:
    made = Barn(tmp_path / "store.db")
    try:
        await made.alarm.restore()
        yield made
    finally:
        await made.database.close()
