"""The nightly backup (decision 31, S0-111 to S0-114): asked every minute, runs in a worker thread.

`tick` never waits for the folder: a stick that hangs must not hold up whoever calls it. It starts a
run when one is due, and a later call tells how it ended.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from gateway.core import backups as law
from gateway.core.findings import Finding
from gateway.core.severity import Severity
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.store import backup

logger = logging.getLogger(__name__)

KIND = "backup_failed"
RETRY_S = 3600.0
"""After a failure. A full or missing disk is not there again within a minute, and every attempt
costs the card a copy."""


class Backups:
    """Knows when the next backup is due, runs it and says what became of it.

    Args:
        clock: wall time for the names, monotonic time for the next attempt.
        store: the live store's file.
        farm: the farm register's file.
        folder: as the configuration names it; the log repeats it so (S0-114).
        zone: the site's.
        at: local time of the nightly run.
        keep_days: older backups go, once a newer one is there.
        room_bytes: the most that all backups together may take; asked in the worker thread after
            every good backup, because a folder can come to lie on another disk.

    Attributes:
        done: backups made since start.
        failed: attempts that failed since start.
        given_up: backups younger than `keep_days` that went for want of room since start.
        last_error: why the last attempt failed; None after a good one.
        last_path: the newest backup this run of the gateway has made.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        store: Path,
        farm: Path,
        folder: Path,
        zone: ZoneInfo,
        room_bytes: Callable[[], int],
        at: time = law.AT,
        keep_days: int = law.KEEP_DAYS,
    ) -> None:
        self._clock = clock
        self._store = store
        self._farm = farm
        self._folder = folder
        self._zone = zone
        self._room_bytes = room_bytes
        self._at = at
        self._keep_days = keep_days
        self._newest: datetime | None = None
        self._retry_s = 0.0
        self._run: asyncio.Task[Finding | None] | None = None
        self._stop = threading.Event()
        self.done = 0
        self.failed = 0
        self.given_up = 0
        self.last_error: str | None = None
        self.last_path: Path | None = None

    @property
    def running(self) -> bool:
        """Whether a backup is being written now."""
        return self._run is not None and not self._run.done()

    async def tick(self) -> Finding | None:
        """Start a backup if one is due; returns what became of the last one, once."""
        if self._run is None and self._due():
            self._run = asyncio.create_task(self._attempt(self._now_local()), name="backup")
        if self._run is None or not self._run.done():
            return None
        run, self._run = self._run, None
        return run.result()

    async def finish(self) -> Finding | None:
        """Wait for the backup that is being written, if any; returns what became of it."""
        if self._run is None:
            return None
        run, self._run = self._run, None
        return await run

    async def close(self) -> None:
        """End a backup that is being written; nothing of it stays. The next start makes up for it."""
        self._stop.set()
        await self.finish()

    def _now_local(self) -> datetime:
        moment = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        return moment.astimezone(self._zone).replace(tzinfo=None, microsecond=0)

    def _due(self) -> bool:
        """From memory: the folder is only asked when memory knows of no backup."""
        return (
            not self._stop.is_set()
            and self._clock.monotonic_s() >= self._retry_s
            and law.backup_due(self._now_local(), self._newest, self._at)
        )

    async def _attempt(self, now: datetime) -> Finding | None:
        trusted = self._clock.trusted()
        try:
            made = await asyncio.to_thread(self._make, now)
            if made is None:
                return None
            self._tell(made)
            if trusted:  # a clock that is years ahead would call every backup old
                await asyncio.to_thread(self._expire, now)
            await asyncio.to_thread(self._fit, now)
        except StoreError as error:
            return None if self._stop.is_set() else self._failure(error)
        self.last_error = None
        return self._finding(present=False, sentence=f"Backup created: {made.path}")

    def _make(self, now: datetime) -> backup.Backup | None:
        """In the worker thread, like all that touches the folder."""
        stem = self._store.stem
        self._newest = law.newest(backup.names(self._folder), now, stem)
        if not law.backup_due(now, self._newest, self._at):
            return None
        made = backup.create(self._store, self._folder, now, farm=self._farm, look=self._look)
        self._newest = law.store_time(made.path.name, stem) or now
        return made

    def _expire(self, now: datetime) -> None:
        """Only now, so that there is always a good one."""
        old = law.expired(backup.names(self._folder), now, self._keep_days, stem=self._store.stem)
        backup.delete(self._folder, old)

    def _fit(self, now: datetime) -> None:
        """What the disk has for backups is theirs and no more: the store's half begins there."""
        try:
            room_bytes = self._room_bytes()
        except OSError as error:
            raise StoreError(f"{self._folder}: {error.strerror}", "check the disk it lies on") from error
        stem = self._store.stem
        names = law.beyond_room(backup.sizes(self._folder), room_bytes, now, stem=stem)
        backup.delete(self._folder, names)
        stores = [name for name in names if law.store_time(name, stem)]
        self.given_up += len(stores)
        if stores:
            logger.warning(
                "Backups in %s may take %d MiB in all; gone: %s",
                self._folder,
                room_bytes // 2**20,
                ", ".join(stores),
            )

    def _tell(self, made: backup.Backup) -> None:
        self.done += 1
        self.last_path = made.path
        logger.info("Backup created: %s", made.path)
        self.given_up += len(made.given_up)
        if made.given_up:
            logger.warning("No room for all backups in %s; gone: %s", self._folder, ", ".join(made.given_up))

    def _look(self, _left: int, _total: int) -> None:
        if self._stop.is_set():
            raise StoreError(f"{self._folder}: the gateway stops, the backup is made at the next start")

    def _failure(self, error: StoreError) -> Finding:
        self.failed += 1
        self._retry_s = self._clock.monotonic_s() + RETRY_S
        if self.last_error != str(error):  # one line for an outage, not one for every attempt
            logger.error("Backup failed: %s", error)
        self.last_error = str(error)
        return self._finding(present=True, sentence=f"The nightly backup failed: {error}")

    def _finding(self, *, present: bool, sentence: str) -> Finding:
        now_ms = self._clock.now_ms()
        return Finding(
            subject="gateway",
            kind=KIND,
            present=present,
            severity=Severity.WARNING,
            at_ms=now_ms,
            onset_ms=now_ms,
            confidence=1.0,
            sentence=sentence,
        )
