"""The store's housekeeping: roll up, pack, let go, give back. One job of the schedule, once a minute.

WHEN and in which order; what is due and how it is done stand in the store. Reading and encoding run
in worker threads; every write is one short piece that queues between the readings' own commits, so
none of them waits for more than one piece (about 20 ms on a laptop).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from gateway.core.findings import Finding, told_of_gateway
from gateway.core.instants import DAY_MS, HOUR_MS
from gateway.core.retention import RetentionPolicy
from gateway.errors import StoreError
from gateway.ports import Clock
from gateway.store import chunks, journal, meta, packing, retention, rollups
from gateway.store.database import Database

log = logging.getLogger(__name__)

T = TypeVar("T")

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
"""Room inside the file that stays for what comes: a quarter of what is used, or 64 MiB (of a small
budget a quarter), whichever is more."""
NOTES_PER_WRITE = 2000
"""Notes of the journal taken out in one transaction: about 5 ms."""


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
        report: Callable[[list[Finding]], Awaitable[object]],
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
        """runs, rolled_hours, packed_rows, set_aside, given_back_pages."""

    async def run(self) -> None:
        """One round. A store that cannot write leaves everything for the next one."""
        now_hour = self._clock.now_ms() // HOUR_MS
        try:
            await self._set_aside_damaged()
            await self._mind_the_clock(now_hour)
            await self._roll_up(now_hour)
            await self._pack(now_hour)
            if self._clock.trusted() and now_hour != self._aged_hour:
                await self._let_go_old(now_hour)
                self._aged_hour = now_hour
            await self._let_go_for_room(now_hour)
            await self._give_back()
        except chunks.ChunkError as error:
            log.debug("Housekeeping met a damaged chunk, set aside at the next run: %s", error)
        except StoreError as error:
            log.debug("Housekeeping waits for the store: %s", error)  # ingest tells of the outage
        self.counters["runs"] += 1

    async def _set_aside_damaged(self) -> None:
        """Chunks that anybody has met with a wrong checksum: out of the way of everything behind them."""
        for slice_, what in self._database.damaged_chunks():
            now_ms = self._clock.now_ms()
            lost = await self._database.write(partial(chunks.set_aside, slice_=slice_, now_ms=now_ms))
            self._database.forget_damaged(slice_)
            self.counters["set_aside"] += 1
            log.error("%s; set aside in damaged_chunks", what)
            await self._report(
                [told_of_gateway("store_damaged", f"{what}: {lost} readings cannot be read", now_ms)]
            )

    async def _mind_the_clock(self, now_hour: int) -> None:
        """Notes of arrivals under dates that were wrong move to now: from ahead, and from behind."""
        if not self._clock.trusted():
            if await self._database.read(lambda db: meta.get(db, journal.UNTRUSTED)) is None:
                await self._database.write(journal.clock_is_untrusted)
            return
        if await self._database.read(partial(journal.ahead, now_hour=now_hour)):
            moved = await self._database.write(partial(journal.rebase, now_hour=now_hour))
            log.warning("The clock was ahead and has been set back; %d notes of arrivals moved to now", moved)
        since = await self._database.read(lambda db: meta.get(db, journal.UNTRUSTED))
        if since is None:
            return
        moved = 0
        while (
            hour := await self._database.read(partial(journal.next_hour, behind=since, until=now_hour - 1))
        ) is not None:
            moved += await self._database.write(
                partial(journal.bring_forward, arrival_hour=hour, now_hour=now_hour)
            )
        await self._database.write(lambda db: meta.remove(db, journal.UNTRUSTED))
        log.info("The clock is set; %d notes of arrivals moved to now", moved)

    # Roll-up -----------------------------------------------------------------------------------

    async def _roll_up(self, now_hour: int) -> None:
        where = await self._database.read(journal.cursors)
        if where.closed_hour < now_hour - 1:
            await self._database.write(
                partial(journal.advance, cursor=journal.CLOSED, arrival_hour=now_hour - 1)
            )
        rolled = where.rolled_hour
        for _ in range(ARRIVAL_HOURS_PER_RUN):
            hour = await self._database.read(partial(journal.next_hour, behind=rolled, until=now_hour - 1))
            if hour is None:
                return
            await self._roll_up_hour(hour)
            rolled = hour

    async def _roll_up_hour(self, arrival_hour: int) -> None:
        due = await self._database.read(partial(rollups.due, arrival_hour=arrival_hour))
        for hour, animals in due.items():
            days = await self._database.read(partial(rollups.renew, hour=hour, animals=animals))
            for part in _parts(days, DAYS_PER_WRITE):
                await self._database.write(partial(rollups.write, days=part, arrival_hour=arrival_hour))
        await self._database.write(partial(journal.advance, cursor=journal.ROLLED, arrival_hour=arrival_hour))
        self.counters["rolled_hours"] += 1

    # Packing -----------------------------------------------------------------------------------

    async def _pack(self, now_hour: int) -> None:
        for _ in range(ARRIVAL_HOURS_PER_RUN):
            due = await self._database.read(partial(packing.due, now_hour=now_hour))
            if due is None:
                return
            for hour in sorted(due.animals):
                for piece in await self._database.read(partial(packing.plan, due=due, hour=hour)):
                    self.counters["packed_rows"] += await self._database.write(
                        partial(packing.apply, piece=piece)
                    )
            stale = await self._database.read(partial(packing.superseded, due=due))
            for part in _parts(stale, NOTES_PER_WRITE):
                await self._database.write(
                    partial(journal.forget, arrival_hour=due.arrival_hour, slices=part)
                )
            await self._database.write(partial(packing.finish, due=due))

    # Letting go --------------------------------------------------------------------------------

    async def _let_go_old(self, now_hour: int) -> None:
        policy = self._policy

        def before_ms(days: float) -> int:
            return self._clock.now_ms() - round(days * DAY_MS)

        gone = await self._drop(
            before_ms(policy.readings_days) // HOUR_MS, now_hour, undelivered_too=not self._readings_wanted
        )
        if gone.readings:
            self._log_once(
                f"{gone.readings} readings that came over {policy.readings_days:g} days ago are let go"
            )
        for drop in (
            partial(
                retention.drop_rollups,
                before_hour=before_ms(policy.rollups_days) // HOUR_MS,
                now_hour=now_hour,
            ),
            partial(retention.drop_alerts, before_ms=before_ms(policy.alerts_days)),
            partial(retention.drop_dead_letters, before_ms=before_ms(policy.dead_letters_days)),
            partial(
                retention.drop_events,
                before_ms=before_ms(policy.events_days),
                destinations=self._destinations,
            ),
        ):
            await self._database.write(drop)
        self.dropped = await self._database.read(retention.dropped)

    async def _drop(
        self,
        before_hour: int,
        now_hour: int,
        *,
        undelivered_too: bool,
        enough: Callable[[], bool] = lambda: False,
    ) -> retention.Dropped:
        """The oldest arrival hours, `DROPS_PER_RUN` at most, until there is enough."""
        readings = undelivered = 0
        hours = await self._database.read(
            partial(
                retention.arrival_hours,
                before_hour=before_hour,
                limit=DROPS_PER_RUN,
                undelivered_too=undelivered_too,
            )
        )
        for hour in hours:
            going = await self._database.read(
                partial(retention.droppable, arrival_hour=hour, undelivered_too=undelivered_too)
            )
            for part in _parts(going, retention.SLICES_PER_STEP):
                done = await self._database.write(
                    partial(retention.drop_readings, arrival_hour=hour, going=part, now_hour=now_hour)
                )
                readings, undelivered = readings + done.readings, undelivered + done.undelivered
            self.size = await self._database.read(retention.size)
            if enough():
                break
        return retention.Dropped(readings, undelivered)

    async def _let_go_for_room(self, now_hour: int) -> None:
        """Over the budget: the oldest readings go, those nobody waits for first."""
        self.budget_bytes = self._budget()
        self.size = await self._database.read(retention.size)
        if self.size.used_bytes <= self.budget_bytes:
            self._pressed = False
            return
        target = self.budget_bytes * BUDGET_EASE
        gone = undelivered = 0
        for too in dict.fromkeys((not self._readings_wanted, True)):
            if self.size.used_bytes > target:
                done = await self._drop(
                    now_hour, now_hour, undelivered_too=too, enough=lambda: self.size.used_bytes <= target
                )
                gone, undelivered = gone + done.readings, undelivered + done.undelivered
        self.dropped = await self._database.read(retention.dropped)
        if not self._pressed:
            self._pressed = True
            sentence = (
                f"the store has used up its {self.budget_bytes / 2**20:,.1f} MiB: the oldest {gone} readings"
                f" are let go, {undelivered} of them undelivered; their hourly figures stay"
            )
            log.warning("%s", sentence)
            await self._report([told_of_gateway("store_budget", sentence, self._clock.now_ms())])

    async def _give_back(self) -> None:
        """Free pages beyond a reserve go back to the file system, a few at a time; never VACUUM."""
        kept = min(FREE_BYTES_KEPT, self.budget_bytes // 4)
        for _ in range(GIVE_BACK_PER_RUN):
            size = self.size
            free = size.file_bytes - size.used_bytes
            if free <= max(kept, FREE_SHARE_KEPT * size.used_bytes):
                return
            given = await self._database.write(partial(retention.give_back, pages=GIVE_BACK_PAGES))
            if not given:
                return
            self.counters["given_back_pages"] += given
            self.size = await self._database.read(retention.size)

    def _log_once(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            log.info("Retention: %s, from now on every hour; their hourly figures stay", sentence)


def _parts(whole: Sequence[T], size: int) -> list[Sequence[T]]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]
