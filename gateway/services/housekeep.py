"""The store's housekeeping: roll up, pack, let go, give back. One job of the schedule, once a minute.

WHEN and in which order; what is due and how it is done stand in the store. Reading and encoding run
in worker threads; every write is one short piece that queues between the readings' own commits, so
none of them waits for more than one piece (about 20 ms on a laptop).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence

from gateway.core.findings import Finding, told_of_gateway
from gateway.core.retention import RetentionPolicy
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.store import chunks, journal, packing, retention, rollups
from gateway.store.database import Connection, Database

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ARRIVAL_HOURS_PER_RUN = 24
"""Hours of arrival that one run rolls up, packs or lets go: after a long outage of the clock or a big
import it catches up a day a minute, and other work of the schedule is not starved."""
DAYS_PER_WRITE = 250
"""Rolled-up days of animals in one transaction: 250 × 1 KB, about 3 ms."""
DROPS_PER_RUN = 48
"""Hours of arrival let go in one run, a transaction each (200 animals: 400 chunks, about 5 ms)."""
BUDGET_EASE = 0.95
"""Once over the budget, readings go until this share of it is in use, not for every page anew."""
GIVE_BACK_PAGES = 256
"""Free pages returned to the file system in one transaction: 1 MiB, of which each may be a move."""
GIVE_BACK_PER_RUN = 16
"""Such transactions a run: 16 MiB a minute."""
FREE_SHARE_KEPT = 0.25
FREE_BYTES_KEPT = 64 * 1024 * 1024
"""Room inside the file that stays for what comes: a quarter of it, or 64 MiB, whichever is more."""


class Housekeep:
    """Keeps the store in order.

    Args:
        clock: wall time decides what is due; ages count only while it is trusted.
        database: the open store.
        policy: how long things are kept.
        budget_bytes: asked at every run: the most the store may use.
        destinations: whose acknowledgement an event needs before it goes.
        readings_wanted: whether a destination takes readings; undelivered ones then go last.
        report: takes findings about the store itself.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        database: Database,
        policy: RetentionPolicy,
        budget_bytes: Callable[[], int],
        destinations: Collection[str],
        readings_wanted: bool,
        report: Callable[[list[Finding]], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._database = database
        self._policy = policy
        self._budget = budget_bytes
        self._destinations = destinations
        self._readings_wanted = readings_wanted
        self._report = report
        self._pressed = False
        self._told = False
        self._aged_hour = -1
        self.size = retention.Size(0, 0)
        self.budget_bytes = 0
        self.dropped: dict[str, int] = {}
        """What was let go since the store was made, by kind."""
        self.counters: Counter[str] = Counter()
        """runs, rolled_hours, packed_rows, late_for_packing, set_aside, given_back_pages."""

    async def run(self) -> None:
        """One round. A store that cannot write leaves everything for the next one."""
        now_hour = self._clock.now_ms() // HOUR_MS
        try:
            if self._clock.trusted():
                await self._rebase(now_hour)
            await self._roll_up(now_hour)
            await self._pack(now_hour)
            if self._clock.trusted() and now_hour != self._aged_hour:
                await self._let_go_old()
                self._aged_hour = now_hour
            await self._let_go_for_room()
            await self._give_back()
        except chunks.ChunkError as error:
            await self._set_aside(error)
        except StoreError as error:
            log.debug("Housekeeping waits for the store: %s", error)  # ingest tells of the outage
        self.counters["runs"] += 1

    # Roll-up -----------------------------------------------------------------------------------

    async def _rebase(self, now_hour: int) -> None:
        if await self._database.read(lambda db: journal.ahead(db, now_hour)):
            moved = await self._database.write(lambda db: journal.rebase(db, now_hour))
            log.warning("The clock was ahead and has been set back; %d notes of arrivals moved to now", moved)

    async def _roll_up(self, now_hour: int) -> None:
        where = await self._database.read(journal.cursors)
        if where.closed_hour < now_hour - 1:
            await self._database.write(lambda db: journal.advance(db, journal.CLOSED, now_hour - 1))
        rolled = where.rolled_hour
        for _ in range(ARRIVAL_HOURS_PER_RUN):
            hour = await self._database.read(lambda db, at=rolled: journal.next_hour(db, at, now_hour - 1))  # type: ignore[misc]
            if hour is None:
                return
            await self._roll_up_hour(hour)
            rolled = hour

    async def _roll_up_hour(self, arrival_hour: int) -> None:
        slices = await self._database.read(lambda db: journal.by_hour(db, arrival_hour))
        for hour, animals in slices.items():
            days = await self._database.read(lambda db, h=hour, a=animals: rollups.renew(db, h, a))  # type: ignore[misc]
            for part in _parts(days, DAYS_PER_WRITE):
                await self._database.write(lambda db, p=part: rollups.write(db, p, arrival_hour))  # type: ignore[misc]
        await self._database.write(lambda db: journal.advance(db, journal.ROLLED, arrival_hour))
        self.counters["rolled_hours"] += 1

    # Packing -----------------------------------------------------------------------------------

    async def _pack(self, now_hour: int) -> None:
        for _ in range(ARRIVAL_HOURS_PER_RUN):
            due = await self._database.read(lambda db: packing.due(db, now_hour))
            if due is None:
                return
            for hour in sorted(due.animals):
                pieces = await self._database.read(lambda db, d=due, h=hour: packing.plan(db, d, h))  # type: ignore[misc]
                for piece in pieces:
                    moved = await self._database.write(lambda db, p=piece: packing.apply(db, p))  # type: ignore[misc]
                    self.counters["packed_rows"] += moved
            await self._database.write(lambda db, d=due: packing.finish(db, d))  # type: ignore[misc]

    async def _set_aside(self, error: chunks.ChunkError) -> None:
        """A damaged chunk must not stop everything behind it: out of the way, and told."""
        if error.slice_ is None:
            raise error
        slice_, now_ms = error.slice_, self._clock.now_ms()
        lost = await self._database.write(lambda db: chunks.set_aside(db, slice_, now_ms))
        self.counters["set_aside"] += 1
        log.error("%s; set aside in damaged_chunks", error.message)
        sentence = f"{error.message}: {lost} readings cannot be read"
        await self._report([told_of_gateway("store_damaged", sentence, now_ms)])

    # Letting go --------------------------------------------------------------------------------

    async def _let_go_old(self) -> None:
        now_ms, policy = self._clock.now_ms(), self._policy

        def before_ms(days: float) -> int:
            return now_ms - round(days * DAY_MS)

        cutoff_hour = before_ms(policy.readings_days) // HOUR_MS
        hours = await self._database.read(
            lambda db: retention.arrival_hours(
                db, cutoff_hour, DROPS_PER_RUN, undelivered_too=not self._readings_wanted
            )
        )
        gone = 0
        for hour in hours:
            done = await self._database.write(
                lambda db, at=hour: retention.drop_readings(  # type: ignore[misc]
                    db, at, undelivered_too=not self._readings_wanted
                )
            )
            gone += done.readings
        if gone:
            self._log_once(
                f"{gone} readings that came more than {policy.readings_days:g} days ago are let go"
            )
        await self._small(lambda db: retention.drop_rollups(db, before_ms(policy.rollups_days) // HOUR_MS))
        await self._small(lambda db: retention.drop_alerts(db, before_ms(policy.alerts_days)))
        await self._small(lambda db: retention.drop_dead_letters(db, before_ms(policy.dead_letters_days)))
        await self._small(
            lambda db: retention.drop_events(db, before_ms(policy.events_days), self._destinations)
        )
        self.dropped = await self._database.read(retention.dropped)

    async def _small(self, drop: Callable[[Connection], int]) -> None:
        """Asked of a reader first would cost as much as the empty delete, but that one writes nothing."""
        await self._database.write(drop)

    async def _let_go_for_room(self) -> None:
        """Over the budget: the oldest readings go, those nobody waits for first."""
        self.budget_bytes = self._budget()
        self.size = await self._database.read(retention.size)
        if self.size.used_bytes <= self.budget_bytes:
            self._pressed = False
            return
        gone = waiting = 0
        target = self.budget_bytes * BUDGET_EASE
        for undelivered_too in (not self._readings_wanted, True):
            hours = await self._database.read(
                lambda db, too=undelivered_too: retention.arrival_hours(  # type: ignore[misc]
                    db, 2**40, DROPS_PER_RUN, undelivered_too=too
                )
            )
            for hour in hours:
                if self.size.used_bytes <= target:
                    break
                done = await self._database.write(
                    lambda db, at=hour, too=undelivered_too: retention.drop_readings(  # type: ignore[misc]
                        db, at, undelivered_too=too
                    )
                )
                gone, waiting = gone + done.readings, waiting + done.undelivered
                self.size = await self._database.read(retention.size)
        self.dropped = await self._database.read(retention.dropped)
        if not self._pressed:
            self._pressed = True
            sentence = (
                f"the store has used up its {self.budget_bytes / 2**20:,.1f} MiB: the oldest {gone} readings"
                f" are let go, {waiting} of them undelivered; their hourly figures stay"
            )
            log.warning("%s", sentence)
            await self._report([told_of_gateway("store_budget", sentence, self._clock.now_ms())])

    async def _give_back(self) -> None:
        """Free pages beyond a reserve go back to the file system, a few at a time; never VACUUM."""
        for _ in range(GIVE_BACK_PER_RUN):
            size = self.size
            free = size.file_bytes - size.used_bytes
            if free <= max(FREE_BYTES_KEPT, FREE_SHARE_KEPT * size.file_bytes):
                return
            given = await self._database.write(lambda db: retention.give_back(db, GIVE_BACK_PAGES))
            if not given:
                return
            self.counters["given_back_pages"] += given
            self.size = await self._database.read(retention.size)
            await asyncio.sleep(0)

    def _log_once(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            log.info("Retention: %s, from now on every hour; their hourly figures stay", sentence)


def _parts(days: Sequence[rollups.Day], size: int) -> list[Sequence[rollups.Day]]:
    return [days[at : at + size] for at in range(0, len(days), size)]
