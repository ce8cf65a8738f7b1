"""The summary of the day: at a set hour an event of the outbox, once for each local date. One task.

The mark that it is written stands in the store, in the same transaction as the event.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.instants import DAY_MS
from gateway.core.notices import SUMMARY_FRESH_MS
from gateway.ports import Clock
from gateway.store import days
from gateway.store.database import Connection, Database

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""Between two looks at the clock, which may be set at any moment; costs nothing."""


class DailySummary:
    """Appends the summary when its hour comes.

    Args:
        clock: wall time; nothing is written while it is not trusted.
        database: what is counted, and the outbox.
        at: local time of day.
        zone: the site's.
        appended: called after the commit.
    """

    def __init__(
        self, *, clock: Clock, database: Database, at: time, zone: ZoneInfo, appended: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._database = database
        self._at = at
        self._zone = zone
        self._appended = appended
        self._done_day: str | None = None

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            StoreError: the store cannot be read or written.
        """
        self._done_day = await self._database.read(days.done_day)
        while True:
            if self._clock.trusted():
                await self._look()
            await self._clock.sleep(LOOK_S)

    async def _look(self) -> None:
        now_ms = self._clock.now_ms()
        due = due_before(now_ms, self._at, self._zone)
        day, due_ms = due.date().isoformat(), round(due.timestamp() * 1000)
        if self._done_day is not None and day <= self._done_day:
            return
        if self._done_day is None or now_ms - due_ms > SUMMARY_FRESH_MS:
            # The first day is none yet; and what was missed for long is not told any more.
            await self._database.write(lambda db: days.mark(db, day))
        else:
            await self._append(day, due_ms, now_ms)
        self._done_day = day

    async def _append(self, day: str, due_ms: int, now_ms: int) -> None:
        counted = await self._database.read(lambda db: days.summarise(db, due_ms - DAY_MS, due_ms))

        def commit(db: Connection) -> None:
            days.append(db, day, msgspec.json.encode(counted), now_ms)

        await self._database.write(commit)
        log.info("Summary of the day until %s %s is ready", day, self._at.isoformat("minutes"))
        self._appended()


def due_before(now_ms: int, at: time, zone: ZoneInfo) -> datetime:
    """The last moment at or before now at which the local clock showed `at`."""
    now = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)).astimezone(zone)
    due = now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
    return due if due <= now else due - timedelta(days=1)
